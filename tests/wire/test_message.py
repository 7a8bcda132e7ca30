"""parse: which requests are read, and which refused."""

from __future__ import annotations

import random
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guard.datatypes import WIRE_DTYPES
from guard.errors import MalformedRequest, MethodDenied
from guard.pb.grpc_service_pb2 import ModelInferRequest
from guard.wire.contents import MAX_RANK, MAX_STRINGS, MAX_VALUES
from guard.wire.message import MAX_PARAMETERS, parse, take_apart
from guard.wire.scan import MAX_TOP_LEVEL_FIELDS, length_delimited
from tests.wire.messages import (
    EXTREMES,
    FIELDS,
    VALID,
    assert_same_request,
    mixed,
    two_inputs,
    typed,
    with_parameters,
    with_raw,
)


class TestReading:
    """Valid requests."""

    @pytest.mark.parametrize("datatype", FIELDS)
    def test_typed(self, datatype: str) -> None:
        """Typed values of every data type that has a typed form arrive as they were sent, to the ends of its range."""
        tensor = parse(take_apart(typed(datatype, EXTREMES[datatype]))).infer.inputs[0]
        assert tensor.raw is None
        assert tensor.typed is not None
        assert tensor.typed.tolist() == EXTREMES[datatype]
        assert tensor.typed.dtype == WIRE_DTYPES.get(datatype, np.dtype(object))

    @pytest.mark.parametrize("datatype", WIRE_DTYPES)
    def test_raw(self, datatype: str) -> None:
        """Raw bytes of every fixed-width data type are taken as they are."""
        data = bytes(range(6 * WIRE_DTYPES[datatype].itemsize))
        tensor = parse(take_apart(with_raw(datatype, [2, 3], data))).infer.inputs[0]
        assert (tensor.name, tensor.datatype, tensor.shape, tensor.typed) == ("x", datatype, (2, 3), None)
        assert tensor.raw == data

    @pytest.mark.parametrize(
        ("whole", "tensor", "read"),
        [
            (None, None, None),
            ("np", None, "np"),
            (None, "np", "np"),
            ("np", "pd", "pd"),
            ("pd", "np", "pd"),
            ("x", "y", "x"),
            ("", None, ""),
            ("np", "", ""),
            ("", "base64", ""),
        ],
    )
    def test_content_type(self, whole: str | None, tensor: str | None, read: str | None) -> None:
        """How the server is asked to decode is read, from the request and from its tensor: rather what isn't plain."""
        message = ModelInferRequest.FromString(VALID)
        for carrier, value in ((message, whole), (message.inputs[0], tensor)):
            if value is not None:
                carrier.parameters["content_type"].string_param = value
        assert parse(take_apart(message.SerializeToString())).infer.content_type == read

    def test_raw_bytes_tensor(self) -> None:
        """A raw BYTES tensor is taken when its length prefixes add up."""
        data = struct.pack("<I", 3) + b"abc" + struct.pack("<I", 0)
        assert parse(take_apart(with_raw("BYTES", [2], data))).infer.inputs[0].raw == data

    def test_raw_tensors_are_views(self) -> None:
        """No raw tensor is copied: each is a view on the message."""
        data = np.arange(1000, dtype=np.float32)
        message = ModelInferRequest(raw_input_contents=[data.tobytes(), b"\1"])
        message.inputs.add(name="a", datatype="FP32", shape=[1000])
        message.inputs.add(name="b", datatype="UINT8", shape=[1])
        wire = message.SerializeToString()
        for tensor in parse(take_apart(wire)).infer.inputs:
            assert tensor.raw is not None
            assert np.shares_memory(np.frombuffer(wire, np.uint8), np.frombuffer(tensor.raw, np.uint8))

    def test_raw_contents_may_come_first(self) -> None:
        """Fields may come in any order: raw contents before the header are found too."""
        header = ModelInferRequest(model_name="digits", id="7")
        header.inputs.add(name="x", datatype="UINT8", shape=[2])
        parsed = parse(take_apart(length_delimited(7, 2) + b"hi" + header.SerializeToString()))
        assert parsed.infer.inputs[0].raw == b"hi"
        assert (parsed.infer.model_name, parsed.infer.request_id) == ("digits", "7")

    def test_request_without_inputs(self) -> None:
        """A request without inputs can be read; whether it is of use is for others to say."""
        assert parse(take_apart(b"")).infer.inputs == ()

    def test_empty_tensor(self) -> None:
        """A tensor with a dimension of 0 needs no contents, raw or typed."""
        assert parse(take_apart(with_raw("FP32", [0, 4], b""))).infer.inputs[0].raw == b""
        values = parse(take_apart(typed("FP32", [], shape=[0, 4]))).infer.inputs[0].typed
        assert values is not None
        assert values.size == 0


class TestRefusing:
    """Requests that aren't read."""

    @pytest.mark.parametrize(
        ("message", "says"),
        [
            (VALID[:-1], "truncated: a field .* needs 1 more bytes"),
            (b"\x3a\xff", "truncated within a varint"),
            (b"\x80", "truncated within a varint"),
            (b"\x08" + b"\xff" * 10 + b"\x01", "varint that is too long"),
            (b"\x08" + b"\xff" * 9 + b"\x02", "varint that is too long"),
            (b"\xba\x80\x80\x80\x80\x00\x01a", "varint that is too long"),
            (b"\xff\xff\xff\xff\x7f\x00", "invalid field tag"),
            (b"\x02\x00", "invalid field tag"),
            (b"\x43\x44", "wire type 3"),
            (b"\x44", "wire type 4"),
            (b"\x46", "wire type 6"),
            (b"\x38\x01", "field 7 of the message has wire type 0"),
            (b"\x3d\x01\x02\x03\x04", "field 7 of the message has wire type 5"),
            (b"\x0d\x01\x02\x03", "truncated"),
            (b"\x0a\x01\xff", "protobuf can't parse it"),
            (b"\x10\x01" * (MAX_TOP_LEVEL_FIELDS + 1), f"more than {MAX_TOP_LEVEL_FIELDS} top-level fields"),
            (with_raw("FP32", [2], b"1234"), r"'x' of shape \[2\] takes 8 bytes as FP32, its raw contents have 4"),
            (with_raw("FP32", [2**62, 2**62], b""), "takes 85070591730234615865843651857942052864 bytes"),
            (with_raw("FP32", [1] * (MAX_RANK + 1), b"1234"), f"more than {MAX_RANK}"),
            (with_raw("FP32", [-1], b"1234"), r"negative dimension: \[-1\]"),
            (with_raw("FP8", [4], b"1234"), "unknown data type 'FP8'; the protocol has BOOL"),
            (with_raw("UINT8", [1]), "takes 1 values, its uint_contents has 0"),
            (with_raw("UINT8", [1], b"a", b"b"), "2 raw_input_contents for 1 input"),
            (with_raw("BYTES", [2], struct.pack("<I", 1) + b"a"), "ends before element 1 of 2"),
            (with_raw("BYTES", [1], struct.pack("<I", 2) + b"a"), "has 5 bytes, its 1 length-prefixed element takes 6"),
            (with_raw("BYTES", [1], struct.pack("<I", 1) + b"ab"), "element takes 5"),
            (with_raw("BYTES", [MAX_STRINGS + 1], b""), f"more than the {MAX_STRINGS} allowed"),
            (with_raw("BYTES", [1], b"\0\0"), "ends before element 0 of 1"),
            (with_parameters(MAX_PARAMETERS + 1), f"has {MAX_PARAMETERS + 1} parameters in one place"),
            (mixed(), "mixes raw_input_contents with typed"),
            (two_inputs("a", "a"), "more than one input named 'a'"),
            (typed("FP16", [1.0], field="fp32_contents"), "FP16, which must be sent as raw_input_contents"),
            (typed("BF16", [1.0], field="fp32_contents"), "BF16, which must be sent as raw_input_contents"),
            (typed("FP32", [1.0], field="fp64_contents"), "goes in fp32_contents, not in fp64_contents"),
            (typed("FP32", [1.0, 2.0], shape=[3]), r"shape \[3\] takes 3 values, its fp32_contents has 2"),
            (typed("BOOL", [True], shape=[MAX_VALUES + 1]), f"more than the {MAX_VALUES} allowed: send raw"),
            (typed("INT8", [128]), "outside -128 to 127, the range of INT8"),
            (typed("INT16", [-32769]), "outside -32768 to 32767"),
            (typed("UINT8", [256]), "outside 0 to 255"),
            (typed("UINT16", [65536]), "outside 0 to 65535"),
        ],
    )
    def test_malformed(self, message: bytes, says: str) -> None:
        """A request that parsers could read differently, or not at all, is refused, saying what is wrong with it."""
        with pytest.raises(MalformedRequest, match=says):
            parse(take_apart(message))

    @pytest.mark.parametrize("place", ["model_name", "model_version", "id", "input", "output", "parameter"])
    def test_nul(self, place: str) -> None:
        """A name with a NUL is refused: Triton ends it there, so that it would answer for another model, or input."""
        message = ModelInferRequest.FromString(VALID)
        match place:
            case "input":
                message.inputs[0].name = "x\0y"
            case "output":
                message.outputs.add(name="x\0y")
            case "parameter":
                message.inputs[0].parameters["x\0y"].bool_param = True
            case _:
                setattr(message, place, "x\0y")
        with pytest.raises(MalformedRequest, match=r"with a NUL in it \('x\\x00y'\)"):
            parse(take_apart(message.SerializeToString()))

    @pytest.mark.parametrize("place", ["request", "input"])
    def test_decoded(self, place: str) -> None:
        """What MLServer would take in place of a tensor is refused."""
        message = ModelInferRequest.FromString(VALID)
        carrier = message if place == "request" else message.inputs[0]
        carrier.parameters["_decoded_payload"].string_param = "another image"
        with pytest.raises(MalformedRequest, match="a parameter '_decoded_payload', which some servers take in place"):
            parse(take_apart(message.SerializeToString()))

    @pytest.mark.parametrize("side", ["inputs", "outputs"])
    @pytest.mark.parametrize("name", ["shared_memory_region", "shared_memory_offset"])
    def test_shared_memory(self, side: str, name: str) -> None:
        """A tensor in shared memory could change after it was screened, so it is denied, as input and as output."""
        message = ModelInferRequest()
        tensor = getattr(message, side).add(name="x")
        tensor.parameters[name].string_param = "region"
        with pytest.raises(MethodDenied, match="'x' is in shared memory"):
            parse(take_apart(message.SerializeToString()))

    @settings(max_examples=500, deadline=None)
    @given(st.binary(max_size=200))
    def test_random_bytes(self, message: bytes) -> None:
        """Random bytes are parsed or refused, never a crash."""
        try:
            parse(take_apart(message))
        except (MalformedRequest, MethodDenied):
            return

    @settings(max_examples=500, deadline=None)
    @given(st.randoms(use_true_random=False), st.integers(1, 4))
    def test_damaged_requests(self, rng: random.Random, damages: int) -> None:
        """A valid request with damaged bytes is parsed or refused; what is parsed re-emits to the same request."""
        message = bytearray(rng.choice([VALID, mixed(), typed("INT8", [1, 2, 3]), two_inputs("a", "b")]))
        for _ in range(damages):
            message[rng.randrange(len(message))] = rng.randrange(256)
        try:
            parsed = parse(take_apart(bytes(message)))
        except (MalformedRequest, MethodDenied):
            return
        assert_same_request(parse(take_apart(parsed.canonical())), parsed)
