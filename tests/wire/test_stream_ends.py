"""How streams end, and that none holds more than it may on the way."""

from __future__ import annotations

import asyncio

import grpc

from guard.wire.stream_entrance import MAX_SCREENED
from tests.support.waiting import PATIENCE_S
from tests.wire.parts import Decide, Serve
from tests.wire.stream_parts import ByValue, marks, taken_bytes, talk, until
from tests.wire.stream_upstream import StreamingUpstream, large, request


class TestUpstream:
    """An upstream that is slow, dies or is not there."""

    async def test_slow(self, serve: Serve, streams: StreamingUpstream) -> None:
        """What the upstream doesn't take is not read from the client, and nothing is lost."""
        streams.reads.clear()
        guard = await serve(address=streams.address, max_inflight_bytes=100_000_000)
        async with talk(guard) as client:
            sending = asyncio.create_task(client.send(*(large(n) for n in range(100))))
            await until(lambda: taken_bytes(guard) > 4_000_000)
            await asyncio.sleep(0.2)
            assert taken_bytes(guard) <= MAX_SCREENED * 301_000
            assert not sending.done()
            streams.reads.set()
            heard = await client.hear_all(100)
            await sending
        assert [each.infer_response.id for each in heard] == [f"{n}" for n in range(100)]

    async def test_dies(self, serve: Serve, streams: StreamingUpstream) -> None:
        """A connection that is lost ends the stream, and says which; what was answered before stays."""
        guard = await serve(address=streams.address)
        async with talk(guard) as client:
            await client.send(request("a"))
            await client.hear()
            streams.release.clear()
            await client.send(request("b"))
            await until(lambda: len(streams.received) == 2)
            await streams.stop()
            code, message, _ = await client.ended()
        assert code is grpc.StatusCode.UNAVAILABLE
        assert f"can't reach the upstream at {streams.address}" in message
        assert guard.metrics.refused == ["upstream_unavailable"]

    async def test_not_there(self, serve: Serve, free_address: str) -> None:
        """Without an upstream the stream ends at its first message that is forwarded."""
        async with talk(await serve(address=free_address)) as client:
            await client.send(request("a"))
            code, message, _ = await client.ended()
        assert (code, free_address in message) == (grpc.StatusCode.UNAVAILABLE, True)

    async def test_ends_early(self, serve: Serve, streams: StreamingUpstream, decide: Decide) -> None:
        """What Guard itself still has to say is said before the end."""
        streams.release.clear()
        streams.answer, streams.ending = lambda _: [], (grpc.StatusCode.INTERNAL, "broken")
        guard = await serve(ByValue(decide, rejected={2}), address=streams.address)
        async with talk(guard) as client:
            await client.send(request(value=1), request("x", value=2))
            await until(lambda: len(guard.metrics.finished) == 2)
            streams.release.set()
            assert marks(await client.hear()) == ("adversarial", "d-2")
            assert (await client.ended())[:2] == streams.ending


class TestGuard:
    """Guard's own bounds, and its end."""

    async def test_own_messages_are_waited_for(self, serve: Serve, streams: StreamingUpstream, decide: Decide) -> None:
        """Where a stream itself takes all the room, its next message waits."""
        judge = ByValue(decide, held={1: asyncio.Event()})
        size = len(request().SerializeToString())
        guard = await serve(judge, address=streams.address, max_inflight_bytes=2 * size)
        async with talk(guard) as client:
            await client.send(*(request() for _ in range(5)))
            await until(lambda: judge.now == 2)
            await asyncio.sleep(0.05)
            assert judge.now == 2
            judge.held[1].set()
            assert [each.error_message for each in await client.hear_all(5)] == [""] * 5
        assert judge.most == 2

    async def test_room_that_others_take(self, serve: Serve, streams: StreamingUpstream, decide: Decide) -> None:
        """Where others take the room a message is refused, and says which setting bounds it."""
        judge = ByValue(decide, held={1: asyncio.Event()})
        guard = await serve(judge, address=streams.address, max_inflight_bytes=10)
        async with talk(guard) as first, talk(guard) as second:
            await first.send(request(value=1))
            await until(lambda: judge.now == 1)
            await second.send(request(value=2))
            assert "limits.max_inflight_bytes is 10; retry with backoff" in (await second.hear()).error_message
            judge.held[1].set()
            await first.hear()
            await second.send(request(value=2))
            assert not (await second.hear()).error_message
        assert guard.metrics.refused == ["overloaded"]

    async def test_stopping(self, serve: Serve, streams: StreamingUpstream) -> None:
        """A guard that stops answers what it has read, then ends its streams; an idle one ends at once."""
        streams.release.clear()
        guard = await serve(address=streams.address)
        async with talk(guard) as busy, talk(guard) as idle:
            await busy.send(request("a"))
            await idle.send(request("b"))
            await until(lambda: len(streams.received) == 2)
            stopping = asyncio.create_task(guard.server.stop(PATIENCE_S))
            await asyncio.sleep(0.05)
            assert not stopping.done()
            streams.release.set()
            for client in (busy, idle):
                assert marks(await client.hear()) == ("clean", "d-1")
                code, message, _ = await client.ended()
                assert code is grpc.StatusCode.UNAVAILABLE
                assert "guard is stopping: open the stream again, and send what was not answered" in message
            await asyncio.wait_for(stopping, PATIENCE_S / 2)

    async def test_an_upstream_that_works_on_is_counted(self, serve: Serve, streams: StreamingUpstream) -> None:
        """Streams whose clients left are bounded as calls are, where the upstream may not hear of it."""
        streams.release.clear()
        guard = await serve(address=streams.address)
        assert guard.server._running is not None
        upstream = guard.server._running[2]
        upstream._max_abandoned_calls = 1
        async with talk(guard) as client:
            await client.send(request())
            await until(lambda: len(streams.received) == 1)
        await until(lambda: len(upstream._abandoned) == 1)
        async with talk(guard) as client:
            await client.send(request())
            assert (await client.ended())[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
        streams.release.set()
        await until(lambda: not upstream._abandoned)
