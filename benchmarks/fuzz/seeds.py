"""Cases to begin with: one of each form that a request can take."""

from __future__ import annotations

import gzip
import json
import struct
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from benchmarks.fuzz import properties
from benchmarks.fuzz.pictures import pictures
from guard.datatypes import WIRE_DTYPES
from guard.pb.grpc_service_pb2 import ModelInferRequest, ModelStreamInferResponse
from guard.wire.contents import TYPED_FIELDS

CORPUS = Path(__file__).parents[2] / "tests" / "wire" / "corpus" / "cases.txt"
"""Cases that reach different code, or once broke something."""

FOLDER = "GUARD_FUZZ_FOLDER"
"""Environment variable of the process that fuzzes: the folder for what came of it."""


def typed(datatype: str, values: list[int] | list[bytes]) -> ModelInferRequest:
    """A request with one typed input."""
    made = ModelInferRequest(model_name="report")
    tensor = made.inputs.add(name=datatype, datatype=datatype, shape=[len(values)])
    getattr(tensor.contents, TYPED_FIELDS[datatype]).extend(values)
    return made


def raw(*datatypes: str) -> ModelInferRequest:
    """A request with one raw input of each data type, two values in it."""
    made = ModelInferRequest(model_name="report", id="7")
    for datatype in datatypes:
        made.inputs.add(name=datatype, datatype=datatype, shape=[2])
        strings = b"".join(struct.pack("<I", len(text)) + text for text in (b"one", b""))
        values = strings if datatype == "BYTES" else np.array([0, 1], WIRE_DTYPES[datatype]).tobytes()
        made.raw_input_contents.append(values)
    return made


def requests() -> list[ModelInferRequest]:
    """Valid requests."""
    made = [typed(datatype, [b"one", b""] if datatype == "BYTES" else [0, 1]) for datatype in TYPED_FIELDS]
    made += [raw(datatype) for datatype in (*WIRE_DTYPES, "BYTES")]
    made.append(raw("FP32", "INT8", "BYTES"))
    full = raw("FP32", "BOOL")
    full.model_version = "1"
    full.inputs[0].parameters["classification"].int64_param = 1
    full.parameters["priority"].uint64_param = 1
    full.parameters["guard_verdict"].string_param = "clean"
    full.parameters["share"].double_param = 0.5
    full.parameters["flag"].bool_param = True
    full.outputs.add(name="report")
    return [*made, full]


def documents() -> list[tuple[bytes, bytes]]:
    """Valid bodies of REST: the JSON, and what is behind it."""
    made: list[tuple[bytes, bytes]] = []
    for datatype, data in (("FP32", [[0.5, 1.0]]), ("INT8", [0, 1]), ("BOOL", [True, False]), ("BYTES", ["a", "b"])):
        inputs = [{"name": datatype, "datatype": datatype, "shape": [2], "data": data}]
        made.append((json.dumps({"inputs": inputs}).encode(), b""))
    binary = [
        {"name": name, "datatype": name, "shape": [1], "parameters": {"binary_data_size": WIRE_DTYPES[name].itemsize}}
        for name in ("FP32", "INT16")
    ]
    outputs = [{"name": "report", "parameters": {"binary_data": True}}]
    document = {"id": "7", "parameters": {"priority": 1, "a": "b"}, "inputs": binary, "outputs": outputs}
    return [*made, (json.dumps(document).encode(), b"\x00\x00\x80?\x01\x00")]


def cases() -> list[bytes]:
    """A case for each form and parser."""
    messages = [request.SerializeToString() for request in requests()]
    made = [_for(properties.message, message) for message in messages]
    made += [_for(properties.stream, pack(messages[0])) for pack in (gzip.compress, zlib.compress)]
    made += [_for(properties.rest, struct.pack("<H", len(behind)) + text + behind) for text, behind in documents()]
    made += [_for(properties.bare, bytes((kind, 130, 0, 2)) + bytes(16)) for kind in range(4)]
    response = ModelStreamInferResponse()
    response.infer_response.id = "7"
    response.infer_response.model_name = "report"
    response.infer_response.parameters["triton_final_response"].bool_param = True
    made.append(_for(properties.answer, response.SerializeToString()))
    made += [_for(properties.image, bytes((how,)) + picture) for how, picture in enumerate(pictures())]
    made += [_for(properties.path, path) for path in (b"/v2/models/a/versions/1/infer", b"/v2/models/%61/ready")]
    return [*made, _for(properties.index, b'{"ready": true}')]


def kept() -> list[bytes]:
    """The cases of the corpus."""
    return [line.encode().decode("unicode_escape").encode("latin-1") for line in CORPUS.read_text().splitlines()]


def keep(corpus: Iterable[bytes]) -> None:
    """Make these the corpus: a line of text for each, so that changes can be read."""
    lines = sorted(case.decode("latin-1").encode("unicode_escape").decode("ascii") for case in set(corpus))
    CORPUS.write_text("".join(f"{line}\n" for line in lines))


def _for(parser: Callable[[bytes], None], body: bytes) -> bytes:
    return bytes((properties.PARSERS.index(parser),)) + body
