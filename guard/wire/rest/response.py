"""A ModelInferResponse as JSON, with the outputs in it or in binary after it, as Triton forms it.

Source: Open Inference Protocol, "Inference Response JSON Object"; Triton's binary tensor data extension.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from guard.datatypes import BYTES, WIRE_DTYPES
from guard.errors import MalformedRequest
from guard.pb.grpc_service_pb2 import InferParameter, ModelInferResponse
from guard.wire.rest.reply import JSON, HttpReply, to_json
from guard.wire.rest.request import Forms
from guard.wire.rest.values import BINARY_ONLY, prefixed
from guard.wire.scan import split_field

HEADER_LENGTH = b"inference-header-content-length"
"""How many bytes of a body are JSON, where tensors follow in binary."""

_RAW_OUTPUT_CONTENTS = ModelInferResponse.RAW_OUTPUT_CONTENTS_FIELD_NUMBER
_SIZE = "binary_data_size"
"""It is of this answer: KServe says it of its own over gRPC too."""
_BINARY = (b"content-type", b"application/octet-stream")
_LENGTH_PREFIX = struct.Struct("<I")


class UnreadableAnswer(Exception):
    """The guarded server's answer is no ModelInferResponse."""


def write(response: bytes, forms: Forms) -> HttpReply:
    """Write a serialised response. Raw outputs that are wanted in binary are views on it, never copies.

    Raises:
        MalformedRequest: an output is wanted as JSON, which has no form for its data type.
        UnreadableAnswer: the bytes are no response, or one whose parts disagree.
    """
    header, raw = _take_apart(response)
    document: dict[str, Any] = {"id": header.id} if header.id else {}
    document |= {"model_name": header.model_name, "model_version": header.model_version}
    if header.parameters:
        document["parameters"] = {name: _parameter(value) for name, value in header.parameters.items()}
    outputs, behind = [], []
    for index, output in enumerate(header.outputs):
        contents = raw[index] if raw else _typed_contents(output)
        written: dict[str, Any] = {"name": output.name, "datatype": output.datatype, "shape": list(output.shape)}
        parameters = {name: _parameter(value) for name, value in output.parameters.items() if name != _SIZE}
        if forms.binary(output.name):
            parameters[_SIZE] = len(contents)
            behind += [contents] if len(contents) else []
        else:
            written["data"] = _listed(output, contents)
        if parameters:
            written["parameters"] = parameters
        outputs.append(written)
    text = to_json(document | {"outputs": outputs})
    if not behind:
        return HttpReply(headers=(JSON,), body=(text,))
    return HttpReply(headers=(_BINARY, (HEADER_LENGTH, b"%d" % len(text))), body=(text, *behind))


def _take_apart(response: bytes) -> tuple[ModelInferResponse, tuple[memoryview, ...]]:
    try:
        others, raw = split_field(response, _RAW_OUTPUT_CONTENTS)
        header = ModelInferResponse.FromString(others)
    except (MalformedRequest, DecodeError) as error:
        raise UnreadableAnswer("the upstream's answer is no ModelInferResponse") from error
    if raw and len(raw) != len(header.outputs):
        raise UnreadableAnswer(f"the upstream's answer has {len(raw)} contents for {len(header.outputs)} outputs")
    return header, raw


def _parameter(value: InferParameter) -> bool | int | float | str | None:
    chosen = value.WhichOneof("parameter_choice")
    return None if chosen is None else getattr(value, chosen)


def _typed_contents(output: ModelInferResponse.InferOutputTensor) -> memoryview:
    """Contents that came as numbers, in binary. INT8 to UINT16 travel as 32-bit values."""
    fields = output.contents.ListFields()
    values: Sequence[Any] = fields[0][1] if fields else ()
    if output.datatype == BYTES:
        return memoryview(prefixed(values))
    return memoryview(np.array(values, WIRE_DTYPES[output.datatype]).tobytes())


def _listed(output: ModelInferResponse.InferOutputTensor, contents: memoryview) -> list[Any]:
    """The elements of an output, flat, as Triton lists them."""
    if output.datatype in BINARY_ONLY:
        raise MalformedRequest(
            f"output {output.name!r} is {output.datatype}, which JSON has no form for; ask for it in binary "
            "(the parameter binary_data)"
        )
    if output.datatype == BYTES:
        return _strings(contents, math.prod(output.shape))
    try:
        values: list[Any] = np.frombuffer(contents, WIRE_DTYPES[output.datatype]).tolist()
    except (KeyError, ValueError) as error:
        raise UnreadableAnswer(f"output {output.name!r} is not what its data type says") from error
    return values


def _strings(contents: memoryview, elements: int) -> list[str]:
    """The elements of a BYTES tensor. What isn't UTF-8 goes out as it is, as from Triton: then it is no JSON."""
    found, at = [], 0
    try:
        for _ in range(elements):
            (length,) = _LENGTH_PREFIX.unpack_from(contents, at)
            at += _LENGTH_PREFIX.size + length
            found.append(str(contents[at - length : at], "utf-8", "surrogateescape"))
    except struct.error as error:
        raise UnreadableAnswer("a BYTES output has fewer elements than its shape says") from error
    return found
