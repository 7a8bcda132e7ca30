"""Streams of an upstream that tells nothing of its models, and so isn't Triton: without errors, and of one model."""

from __future__ import annotations

import grpc
import pytest

from guard.channel import AioChannel, Link
from guard.config import Upstream as UpstreamSettings
from guard.errors import UpstreamUnavailable
from guard.wire import decoupled
from guard.wire.breaker import Breaker
from guard.wire.upstream_stream import UpstreamStream
from tests.support.waiting import PATIENCE_S
from tests.wire.parts import Decide, Serve
from tests.wire.stream_parts import ByValue, talk
from tests.wire.stream_upstream import StreamingUpstream, request


async def test_a_rejection(serve: Serve, streams: StreamingUpstream, decide: Decide) -> None:
    """It ends the stream with its status, after what was answered."""
    streams.foreign = True
    guard = await serve(ByValue(decide, rejected={2}), address=streams.address)
    async with talk(guard) as client:
        await client.send(request("a", value=1))
        await client.hear()
        await client.send(request("b", value=2))
        code, message, _ = await client.ended()
    assert (code, "guard_verdict=adversarial" in message) == (grpc.StatusCode.PERMISSION_DENIED, True)


async def test_a_model_that_is_not_listed(serve: Serve, streams: StreamingUpstream, decide: Decide) -> None:
    """The same where a first message is refused before its model was looked up."""
    streams.foreign = True
    guard = await serve(ByValue(decide), address=streams.address)
    async with talk(guard) as client:
        await client.send(b"no request")
        assert (await client.ended())[0] is grpc.StatusCode.INVALID_ARGUMENT


async def test_another_model(serve: Serve, streams: StreamingUpstream, decide: Decide) -> None:
    """A request for another model than the first one's is refused: the upstream would give it to the first."""
    streams.foreign = True
    guard = await serve(ByValue(decide), address=streams.address)
    first, second = request("a", value=1), request("b", value=2)
    second.model_name = "another"
    async with talk(guard) as client:
        await client.send(first, first)
        await client.hear_all(2)
        await client.send(second)
        code, message, _ = await client.ended()
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "open another stream for another model" in message
    assert streams.requests == [first, first]


async def test_another_model_where_nobody_says(
    serve: Serve, streams: StreamingUpstream, decide: Decide, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So it is where the upstream doesn't say what it is, for whoever keeps it busy could make it silent.

    It is not asked by each message, and a moment is not remembered for as long as the stream lasts.
    """
    streams.silent, now_s = True, 0.0
    monkeypatch.setattr(decoupled, "_now_s", lambda: now_s)
    guard = await serve(ByValue(decide), address=streams.address)
    first, second = request("a", value=1), request("b", value=2)
    second.model_name = "another"
    async with talk(guard) as client:
        await client.send(first)
        await client.hear()
        for _ in range(3):
            await client.send(second)
            assert "did not say what it is" in (await client.hear()).error_message
        assert len(streams.configs) == 2
        streams.silent, now_s = False, 11.0
        await client.send(second)
        assert (await client.hear()).infer_response.id == "b"
    assert streams.requests == [first, second]


async def test_on_triton(serve: Serve, streams: StreamingUpstream, decide: Decide) -> None:
    """Triton's streams take requests for any model."""
    guard = await serve(ByValue(decide), address=streams.address)
    first, second = request("a", value=1), request("b", value=2)
    second.model_name = "another"
    async with talk(guard) as client:
        await client.send(first, second)
        assert [each.infer_response.id for each in await client.hear_all(2)] == ["a", "b"]


class Lost:
    """A call as gRPC leaves it in one of a hundred cases, where the server ends it while a message is being written."""

    async def read(self) -> bytes:
        """GRPC's own error."""
        nothing = grpc.aio.Metadata()
        raise grpc.aio.AioRpcError(grpc.StatusCode.INTERNAL, nothing, nothing, "Internal error from Core")


async def test_a_status_that_grpc_lost(free_address: str) -> None:
    """Nobody knows what the server said: the client is told to try again, rather than words about gRPC's inside."""
    ended = list[grpc.StatusCode]()
    channel = AioChannel(Link(UpstreamSettings(address=free_address)), 1024)
    breaker = Breaker(channel, free_address, PATIENCE_S, lambda _: None)
    stream = UpstreamStream(
        Lost(),
        breaker=breaker,
        owed=lambda: True,
        cancellable=True,
        adopt=lambda _: None,
        ended=ended.append,
        check=lambda _: None,
    )
    try:
        assert await stream.receive() is None
        with pytest.raises(UpstreamUnavailable, match="open the stream again, and send what was not answered"):
            await stream.ending()
    finally:
        await breaker.close()
        await channel.close()
    assert ended == [grpc.StatusCode.INTERNAL]
