"""Requests to parse, valid and not."""

from __future__ import annotations

import struct

import numpy as np
from hypothesis import strategies as st

from guard.datatypes import WIRE_DTYPES
from guard.pb.grpc_service_pb2 import ModelInferRequest
from guard.values import WireTensor
from guard.wire.message import ParsedRequest

FIELDS = {
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
    "BYTES": "bytes_contents",
}
EXTREMES = {
    "BOOL": [False, True],
    "FP32": [-1.5, float(np.finfo(np.float32).max)],
    "FP64": [-1.5, float(np.finfo(np.float64).max)],
    "BYTES": [b"", b"\x00\xff"],
} | {
    name: [int(np.iinfo(dtype.str).min), int(np.iinfo(dtype.str).max)]
    for name, dtype in WIRE_DTYPES.items()
    if dtype.kind in "iu" and name != "BF16"
}


def typed(datatype: str, values: list, *, field: str | None = None, shape: list[int] | None = None) -> bytes:
    """A request with one typed input."""
    message = ModelInferRequest(model_name="digits")
    tensor = message.inputs.add(name="x", datatype=datatype, shape=[len(values)] if shape is None else shape)
    getattr(tensor.contents, field or FIELDS[datatype]).extend(values)
    return message.SerializeToString()


def with_raw(datatype: str, shape: list[int], *data: bytes) -> bytes:
    """A request with one input and any number of raw contents."""
    message = ModelInferRequest(model_name="digits", raw_input_contents=data)
    message.inputs.add(name="x", datatype=datatype, shape=shape)
    return message.SerializeToString()


def full(parsed: ParsedRequest) -> ModelInferRequest:
    """The request as one protobuf message."""
    message = ModelInferRequest()
    message.CopyFrom(parsed.header)
    message.raw_input_contents.extend(bytes(contents) for contents in parsed.raw)
    return message


def assert_same_request(left: ParsedRequest, right: ParsedRequest) -> None:
    """Both hold the same inputs, to the bit."""

    def plain(tensor: WireTensor) -> tuple:
        values = None if tensor.typed is None else (tensor.typed.dtype, tensor.typed.tolist())
        return tensor.name, tensor.datatype, tensor.shape, tensor.raw, repr(values)

    for name in ("model_name", "model_version", "request_id"):
        assert getattr(left.infer, name) == getattr(right.infer, name)
    assert [plain(tensor) for tensor in left.infer.inputs] == [plain(tensor) for tensor in right.infer.inputs]


def two_inputs(first: str, second: str) -> bytes:
    """A request with two raw inputs."""
    message = ModelInferRequest(raw_input_contents=[b"a", b"b"])
    for name in (first, second):
        message.inputs.add(name=name, datatype="UINT8", shape=[1])
    return message.SerializeToString()


def mixed() -> bytes:
    """A request with raw and typed contents."""
    message = ModelInferRequest.FromString(two_inputs("a", "b"))
    message.inputs[1].contents.uint_contents.append(1)
    return message.SerializeToString()


def with_parameters(count: int) -> bytes:
    """A request whose input has so many parameters."""
    message = ModelInferRequest.FromString(with_raw("UINT8", [1], b"a"))
    for index in range(count):
        message.inputs[0].parameters[str(index)].bool_param = True
    return message.SerializeToString()


VALID = with_raw("UINT8", [2], b"hi")


def arrays(datatype: str) -> st.SearchStrategy[list]:
    """Values of a data type, to the ends of its range."""
    kinds: dict[str, st.SearchStrategy] = {
        "BOOL": st.booleans(),
        "FP32": st.floats(width=32),
        "FP64": st.floats(),
        "BYTES": st.binary(max_size=8),
    }
    if datatype not in kinds:
        low, high = EXTREMES[datatype]
        kinds[datatype] = st.integers(low, high)
    return st.lists(kinds[datatype], max_size=6)


def texts(max_size: int | None = None) -> st.SearchStrategy[str]:
    """Text that servers take whole."""
    return st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=max_size)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """Valid requests, raw or typed, with parameters, and with unknown fields spliced in."""
    message = ModelInferRequest(
        model_name=draw(texts(5)), model_version=draw(st.sampled_from(["", "1"])), id=draw(texts())
    )
    raw = draw(st.booleans())
    names = draw(st.lists(texts(4), unique=True, max_size=3))
    for name in names:
        datatype = draw(st.sampled_from(sorted(FIELDS)))
        values = draw(arrays(datatype))
        tensor = message.inputs.add(name=name, datatype=datatype, shape=[1, len(values)])
        tensor.parameters[draw(texts(3))].int64_param = draw(st.integers(-9, 9))
        if not raw:
            getattr(tensor.contents, FIELDS[datatype]).extend(values)
        elif datatype == "BYTES":
            message.raw_input_contents.append(b"".join(struct.pack("<I", len(v)) + v for v in values))
        else:
            message.raw_input_contents.append(np.array(values, WIRE_DTYPES[datatype]).tobytes())
    for key in draw(st.lists(texts(3), max_size=3)):
        message.parameters[key].string_param = draw(st.text(max_size=3))
    unknown = draw(st.sampled_from([b"", b"\x50\x01", b"\x52\x02hi", b"\x5d\x01\x02\x03\x04"]))
    return unknown + message.SerializeToString() + unknown
