"""The inputs of a request, checked until shape, data type and contents agree.

Whatever two parsers could read differently is refused, so that the upstream executes what was screened.
Source: Open Inference Protocol, "Tensor Data"; the proto's notes on `InferTensorContents` and `raw_input_contents`.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from guard.datatypes import BYTES, WIRE_DTYPES, byte_size, is_known
from guard.errors import MalformedRequest
from guard.pb.grpc_service_pb2 import ModelInferRequest
from guard.plural import counted
from guard.values import WireTensor

MAX_RANK = 32
"""More dimensions than any framework has; bounds the arithmetic that a hostile shape can ask for."""

MAX_VALUES = 1 << 19
"""Values of one request that are no raw bytes: they are read one by one, on the event loop."""

MAX_STRINGS = 1 << 20
"""BYTES elements in one request: they are walked one by one, on the event loop."""

TYPED_FIELDS: Mapping[str, str] = MappingProxyType(
    {
        "BOOL": "bool_contents",
        "INT8": "int_contents",
        "INT16": "int_contents",
        "INT32": "int_contents",
        "INT64": "int64_contents",
        "UINT8": "uint_contents",
        "UINT16": "uint_contents",
        "UINT32": "uint_contents",
        "UINT64": "uint64_contents",
        "FP32": "fp32_contents",
        "FP64": "fp64_contents",
        BYTES: "bytes_contents",
    }
)
"""Where values of a data type go that are not raw."""
_LENGTH_PREFIX = struct.Struct("<I")


def read_inputs(header: ModelInferRequest, raw: Sequence[memoryview]) -> tuple[WireTensor, ...]:
    """The inputs that `header` declares, with the raw contents that go with them, in order.

    Raises:
        MalformedRequest: typed and raw contents are mixed or don't match the inputs one to one, or an input has a
            duplicate name, an unknown data type, an impossible shape or contents that disagree with its shape.
    """
    inputs = tuple(header.inputs)  # once: protobuf makes each anew whenever it is asked for
    _check_names(inputs)
    values = strings = 0
    for tensor in inputs:
        elements = math.prod(_checked_shape(tensor))
        values += elements
        if tensor.datatype == BYTES:
            strings += elements
    if strings > MAX_STRINGS:
        raise MalformedRequest(f"the request holds {strings} BYTES elements, more than the {MAX_STRINGS} allowed")
    if not raw:
        if values > MAX_VALUES:
            raise MalformedRequest(
                f"the request holds {values} typed values, more than the {MAX_VALUES} allowed: send raw_input_contents"
            )
        return tuple(map(_typed_tensor, inputs))
    if any(tensor.HasField("contents") for tensor in inputs):
        raise MalformedRequest("the request mixes raw_input_contents with typed contents; use one of them")
    if len(raw) != len(inputs):
        raise MalformedRequest(
            f"the request has {len(raw)} raw_input_contents for {counted(len(inputs), 'input')}; send one for each"
        )
    return tuple(map(_raw_tensor, inputs, raw))


def _check_names(inputs: Sequence[ModelInferRequest.InferInputTensor]) -> None:
    names = [tensor.name for tensor in inputs]
    if len(set(names)) < len(names):
        twice = next(name for index, name in enumerate(names) if name in names[:index])
        raise MalformedRequest(f"the request has more than one input named {twice!r}")


def _checked_shape(tensor: ModelInferRequest.InferInputTensor) -> tuple[int, ...]:
    shape = tuple(tensor.shape)
    if not is_known(tensor.datatype):
        raise MalformedRequest(
            f"input {tensor.name!r} has unknown data type {tensor.datatype!r}; "
            f"the protocol has {', '.join(WIRE_DTYPES)} and {BYTES}"
        )
    if len(shape) > MAX_RANK:
        raise MalformedRequest(f"input {tensor.name!r} has {len(shape)} dimensions, more than {MAX_RANK}")
    if min(shape, default=0) < 0:
        raise MalformedRequest(f"input {tensor.name!r} has a negative dimension: {list(shape)}")
    return shape


def _raw_tensor(tensor: ModelInferRequest.InferInputTensor, raw: memoryview) -> WireTensor:
    shape = tuple(tensor.shape)
    if tensor.datatype == BYTES:
        _check_length_prefixes(tensor.name, raw, math.prod(shape))
    elif len(raw) != byte_size(tensor.datatype, shape):
        raise MalformedRequest(
            f"input {tensor.name!r} of shape {list(shape)} takes {counted(byte_size(tensor.datatype, shape), 'byte')} "
            f"as {tensor.datatype}, its raw contents have {len(raw)}"
        )
    return WireTensor(tensor.name, tensor.datatype, shape, raw=raw)


def _check_length_prefixes(name: str, raw: memoryview, elements: int) -> None:
    at = 0
    for index in range(elements):
        if at + _LENGTH_PREFIX.size > len(raw):
            raise MalformedRequest(f"BYTES input {name!r} ends before element {index} of {elements}")
        at += _LENGTH_PREFIX.size + _LENGTH_PREFIX.unpack_from(raw, at)[0]
    if at != len(raw):
        takes = counted(elements, "length-prefixed element takes", "length-prefixed elements take")
        raise MalformedRequest(f"BYTES input {name!r} has {counted(len(raw), 'byte')}, its {takes} {at}")


def _typed_tensor(tensor: ModelInferRequest.InferInputTensor) -> WireTensor:
    if tensor.datatype not in TYPED_FIELDS:
        raise MalformedRequest(f"input {tensor.name!r} is {tensor.datatype}, which must be sent as raw_input_contents")
    expected = TYPED_FIELDS[tensor.datatype]
    for field, _ in tensor.contents.ListFields():
        if field.name != expected:
            raise MalformedRequest(
                f"input {tensor.name!r} is {tensor.datatype}, which goes in {expected}, not in {field.name}"
            )
    shape, values = tuple(tensor.shape), getattr(tensor.contents, expected)
    if len(values) != math.prod(shape):
        raise MalformedRequest(
            f"input {tensor.name!r} of shape {list(shape)} takes {math.prod(shape)} values, "
            f"its {expected} has {len(values)}"
        )
    return WireTensor(tensor.name, tensor.datatype, shape, typed=_typed_values(tensor, values))


def _typed_values(
    tensor: ModelInferRequest.InferInputTensor, values: Sequence[float | bytes]
) -> npt.NDArray[np.generic]:
    if tensor.datatype == BYTES:
        return np.fromiter(values, np.object_, len(values))
    dtype = WIRE_DTYPES[tensor.datatype]
    if dtype.kind not in "iu" or dtype.itemsize > 2:  # noqa: PLR2004 - wider types have a field of their own width
        return np.fromiter(values, dtype, len(values))
    # INT8 to UINT16 travel as 32-bit values, and servers differ in how they narrow those that don't fit.
    wide = np.fromiter(values, np.int64, len(values))
    limits = np.iinfo(dtype.str)
    if wide.size and not limits.min <= wide.min() <= wide.max() <= limits.max:
        raise MalformedRequest(
            f"input {tensor.name!r} holds values outside {limits.min} to {limits.max}, the range of {tensor.datatype}"
        )
    return wide.astype(dtype)
