"""weight: what may be parsed, found out before it is."""

from __future__ import annotations

import struct
from itertools import product

import grpc
import pytest

from guard.errors import MalformedRequest, MessageTooLarge
from guard.pb.grpc_service_pb2 import ModelInferRequest
from guard.wire.contents import MAX_VALUES
from guard.wire.message import parse, split, take_apart
from guard.wire.scan import length_delimited
from guard.wire.weight import MAX_SMALL_BYTES, weight
from tests.wire.messages import typed
from tests.wire.parts import RecordingUpstream, Serve
from tests.wire.stream_parts import taken_bytes, talk
from tests.wire.stream_upstream import StreamingUpstream, request, response

TOO_MUCH = 2 * MAX_SMALL_BYTES
NAMES = (b"".join(name) for name in product([bytes([byte]) for byte in range(33, 127)], repeat=3))
PARAMETERS = b"".join(b"\x22\x05\x0a\x03" + name for name, _ in zip(NAMES, range(TOO_MUCH // 7), strict=False))


def nested(number: int, contents: bytes) -> bytes:
    """A field that holds these bytes."""
    return length_delimited(number, len(contents)) + contents


def in_contents(fields: bytes) -> bytes:
    """A request whose one input has such typed contents."""
    return nested(5, nested(5, fields))


HEAVY = {
    "strings": in_contents(b"\x42\x00" * (TOO_MUCH // 2)),
    "strings by a longer tag": in_contents(b"\xc2\x80\x00\x00" * (TOO_MUCH // 4)),
    "strings after a large one": in_contents(nested(8, bytes(5000)) + b"\x42\x00" * (TOO_MUCH // 2)),
    "strings behind many fields": in_contents(b"\x08\x01" * (1 << 14) + b"\x42\x00" * (TOO_MUCH // 2)),
    "numbers one by one": in_contents(b"\x18\x01" * (TOO_MUCH // 2)),
    "lists of one": in_contents(b"\x1a\x01\x01" * (TOO_MUCH // 3)),
    "parameters": nested(5, PARAMETERS),
    "parameters of an output": nested(6, PARAMETERS),
    "shape": nested(5, nested(3, b"\x01" * TOO_MUCH)),
    "contents again and again": nested(5, b"\x2a\x00" * (TOO_MUCH // 2)),
    "a parameter again and again": nested(5, nested(4, b"\x12\x02\x1a\x00" * (TOO_MUCH // 4))),
    "inputs": nested(5, b"\x2a\x00" * (TOO_MUCH // 800)) * 400,
    "unknown": nested(99, b"\x12\x00" * (TOO_MUCH // 2)),
}
LISTS = {
    "int64": in_contents(nested(3, b"\x01" * (MAX_VALUES + 1))),
    "bool": in_contents(nested(1, b"\x01" * (MAX_VALUES + 1))),
    "fp32": in_contents(nested(6, bytes(4 * MAX_VALUES + 4))),
    "fp64": in_contents(nested(7, bytes(8 * MAX_VALUES + 8))),
    "several": in_contents(nested(6, bytes(2 * MAX_VALUES)) * 2 + nested(7, bytes(800))),
    "without end": in_contents(nested(3, b"\xff" * (10 * MAX_VALUES + 10))),
}


class TestRefusing:
    """What would take too much is not parsed."""

    @pytest.mark.parametrize("what", HEAVY)
    def test_small_parts(self, what: str) -> None:
        """Small fields in large numbers, wherever they are."""
        with pytest.raises(MessageTooLarge, match=f"more than the {MAX_SMALL_BYTES} allowed: send raw_input_contents"):
            take_apart(HEAVY[what])

    @pytest.mark.parametrize("what", LISTS)
    def test_lists(self, what: str) -> None:
        """More values than any request may have."""
        with pytest.raises(MessageTooLarge, match=f"more than the {MAX_VALUES} typed values allowed: send raw"):
            take_apart(LISTS[what])

    def test_broken(self) -> None:
        """Fields that end after what they are in."""
        with pytest.raises(MalformedRequest, match="truncated"):
            take_apart(nested(5, nested(5, b"\x42\x00" * 3000)[:-1]))


class TestReading:
    """What can be parsed is."""

    @pytest.mark.parametrize(
        ("datatype", "values"),
        [
            ("FP32", [0.5] * MAX_VALUES),
            ("FP64", [0.5] * MAX_VALUES),
            ("UINT8", [255] * MAX_VALUES),
            ("INT8", [-1] * MAX_VALUES),
            ("BOOL", [True] * MAX_VALUES),
            ("BYTES", [bytes(5_000_000), bytes(20_000_000)]),
            ("BYTES", [bytes(100)] * 10_000),
            ("BYTES", [b"word"] * 50_000),
        ],
    )
    def test_tensors(self, datatype: str, values: list) -> None:
        """Typed tensors up to the number of values that is read one by one, images of any size, and many words."""
        (tensor,) = parse(take_apart(typed(datatype, values))).infer.inputs
        assert tensor.typed is not None
        assert len(tensor.typed) == len(values)

    def test_raw_contents_weigh_nothing(self) -> None:
        """Raw contents are viewed, so a message takes its own size; so does one that is little besides."""
        message = request(value=1).SerializeToString()
        large = ModelInferRequest(raw_input_contents=[struct.pack("<I", 0) * 500_000]).SerializeToString()
        for each in (message, large, typed("FP32", [0.5] * 1000)):
            assert split(each).size == take_apart(each).size == len(each)

    def test_what_is_made_of_it_is_counted(self) -> None:
        """Small parts take many times their size, integers too, and floats or images about theirs."""
        small, integers = typed("BYTES", [b""] * 100_000), typed("INT64", [1] * 100_000)
        for each in (small, integers):
            assert 20 * len(each) < weight(each) < 30 * len(each)
        for each in (typed("FP32", [0.5] * 100_000), typed("BYTES", [bytes(200_000)])):
            assert 2 * len(each) <= weight(each) < 2.1 * len(each)


@pytest.mark.parametrize("what", ["strings", "parameters"])
async def test_over_the_wire(serve: Serve, upstream: RecordingUpstream, streams: StreamingUpstream, what: str) -> None:
    """A call is refused that would take too much, and on a stream that message alone."""
    heavy = HEAVY[what]
    guard = await serve(address=streams.address, max_message_bytes=len(heavy), max_inflight_bytes=4 * len(heavy))
    answer = await guard.call("ModelInfer", heavy, compression=grpc.Compression.Gzip)
    assert answer.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "bytes of short strings, names and parameters" in str(answer.message)
    async with talk(guard, compression=grpc.Compression.Gzip) as client:
        await client.send(heavy, request("a"))
        assert "bytes of short strings, names and parameters" in (await client.hear()).error_message
        assert (await client.hear()).infer_response.id == "a"
    assert guard.metrics.refused == ["message_too_large"] * 2
    assert taken_bytes(guard) == 0


async def test_what_is_made_of_it_takes_room(serve: Serve, streams: StreamingUpstream) -> None:
    """What a request takes once it is parsed is what it finds room for."""
    words = typed("BYTES", [b"word"] * 10_000)
    streams.answer = lambda asked: [response(asked, body=b"")]
    guard = await serve(address=streams.address)
    guard.screener.release.clear()
    async with talk(guard) as client:
        await client.send(words)
        await guard.screener.entered.wait()
        assert taken_bytes(guard) > 20 * len(words)
        guard.screener.release.set()
        await client.hear()
    assert taken_bytes(guard) == 0
