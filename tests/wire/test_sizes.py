"""Messages that are too large or missing: refused, and counted."""

from __future__ import annotations

import grpc
import pytest

from guard.config import LARGEST_GRPC_BYTES
from guard.pb.grpc_service_pb2 import ModelInferResponse
from guard.wire.receive import transport_limit
from tests.wire.parts import RecordingUpstream, Serve

LIMIT = 100_000
METHODS = ["ModelInfer", "ModelConfig"]


async def test_a_request_at_the_limit(serve: Serve, upstream: RecordingUpstream) -> None:
    """A request of exactly max_message_bytes passes."""
    guard = await serve(max_message_bytes=LIMIT)
    assert (await guard.call("ServerReady", bytes(LIMIT))).code is grpc.StatusCode.OK
    assert len(upstream.received) == 1


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [LIMIT + 1, 9 * LIMIT])
async def test_a_request_over_the_limit(serve: Serve, upstream: RecordingUpstream, method: str, size: int) -> None:
    """It is refused by gRPC itself, in its words, before it takes memory; it is counted, and leaves no error behind."""
    guard = await serve(max_message_bytes=LIMIT)
    answer = await guard.call(method, bytes(size))
    assert answer.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert f"larger than max ({size} vs. {LIMIT})" in answer.message
    while not guard.metrics.refused:
        await guard.call("ServerReady")  # until the handler had its turn
    assert guard.metrics.refused == ["message_too_large"]
    assert [call.method for call in upstream.received] == ["ServerReady"] * len(upstream.received)


async def test_a_call_without_a_message(serve: Serve, upstream: RecordingUpstream) -> None:
    """A client that sends no message at all is told so."""
    guard = await serve(max_message_bytes=LIMIT)
    call = guard.channel.stream_unary("/inference.GRPCInferenceService/ModelInfer")(iter(()))
    assert await call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "or the client sent none [guard_id=" in await call.details()
    assert upstream.received == []


async def test_a_response_over_the_limit(serve: Serve, upstream: RecordingUpstream, message: bytes) -> None:
    """An answer over max_message_bytes is RESOURCE_EXHAUSTED, and says so; one at the limit passes, marks and all."""
    guard = await serve(max_message_bytes=LIMIT)
    upstream.body = ModelInferResponse(raw_output_contents=[bytes(99_996)]).SerializeToString()
    assert len(upstream.body) == LIMIT
    assert (await guard.call("ModelInfer", message)).code is grpc.StatusCode.OK
    upstream.body += b"\0"
    answer = await guard.call("ModelInfer", message)
    assert answer.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert f"the upstream's answer has {LIMIT + 1} bytes, more than upstream.max_message_bytes" in answer.message
    assert guard.metrics.refused == ["message_too_large"]
    upstream.body = bytes(2 * LIMIT + 1)
    assert (await guard.call("ModelInfer", message)).code is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("limit", [1024, LARGEST_GRPC_BYTES // 2, LARGEST_GRPC_BYTES])
def test_the_transport_takes_more_than_the_limit(limit: int) -> None:
    """What gRPC takes is the limit or more, and never more than it can count."""
    assert limit <= transport_limit(limit) <= LARGEST_GRPC_BYTES
