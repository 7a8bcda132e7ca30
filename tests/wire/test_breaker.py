"""An upstream that answers nothing: nobody waits for it, and it is taken back once it answers."""

from __future__ import annotations

import asyncio
import time

import grpc
import pytest

from guard.channel import AioChannel, Link
from guard.config import Cancellation
from guard.config import Upstream as UpstreamSettings
from guard.wire.breaker import Breaker
from tests.support.waiting import PATIENCE_S, until
from tests.wire.parts import RecordingUpstream, Running, Serve
from tests.wire.stream_parts import talk
from tests.wire.stream_upstream import StreamingUpstream, request, response

EITHER = pytest.mark.parametrize("policy", [Cancellation.ALWAYS, Cancellation.NEVER])


async def silent(serve: Serve, upstream: RecordingUpstream, message: bytes, policy: Cancellation) -> Running:
    """A Guard before an upstream that answered once, and then no more."""
    guard = await serve(cancellation=policy, reach={"unresponsive_s": 0.8})
    assert (await guard.call("ModelInfer", message)).code is grpc.StatusCode.OK
    upstream.dead = True
    upstream.release.clear()
    return guard


@EITHER
async def test_nobody_waits(serve: Serve, upstream: RecordingUpstream, message: bytes, policy: Cancellation) -> None:
    """Calls without deadline end as UNAVAILABLE, later ones at once and without reaching it; it is shown."""
    guard = await silent(serve, upstream, message, policy)
    answers = await asyncio.gather(*(guard.call("ModelInfer", message) for _ in range(3)))
    assert [answer.code for answer in answers] == [grpc.StatusCode.UNAVAILABLE] * 3
    assert "answers nothing, not even whether it lives" in (answers[0].message or "")
    assert guard.metrics.unresponsive == [True]
    assert set(guard.metrics.refused) == {"upstream_unavailable"}
    before = len(upstream.inferred())
    for method in ("ModelInfer", "ModelConfig"):
        assert (await guard.call(method, message)).code is grpc.StatusCode.UNAVAILABLE
    assert len(upstream.inferred()) == before
    stream = guard.channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")(iter([message]))
    assert await asyncio.wait_for(stream.code(), PATIENCE_S) is grpc.StatusCode.UNAVAILABLE


@EITHER
async def test_it_recovers(serve: Serve, upstream: RecordingUpstream, message: bytes, policy: Cancellation) -> None:
    """Once it answers whether it lives, calls go to it again; it was asked that once, and not taken back."""
    guard = await silent(serve, upstream, message, policy)
    assert (await guard.call("ModelInfer", message)).code is grpc.StatusCode.UNAVAILABLE
    await asyncio.sleep(2.0)
    assert [call.method for call in upstream.received].count("ServerLive") == 1
    upstream.release.set()
    await until(lambda: guard.metrics.unresponsive == [True, False])
    assert (await guard.call("ModelInfer", message)).code is grpc.StatusCode.OK
    if policy is Cancellation.NEVER:
        assert not upstream.cancelled.is_set()


@EITHER
async def test_slow_is_not_dead(
    serve: Serve, upstream: RecordingUpstream, message: bytes, policy: Cancellation
) -> None:
    """An upstream that says that it lives has all the time that callers give it."""
    guard = await serve(cancellation=policy, reach={"unresponsive_s": 0.8})
    upstream.release.clear()
    call = guard.start_call("ModelInfer", message)
    await asyncio.sleep(2.5)
    assert not call.done()
    upstream.release.set()
    assert await call.code() is grpc.StatusCode.OK
    assert guard.metrics.unresponsive == []


class TestStreams:
    """Streams that are open already."""

    @EITHER
    @pytest.mark.parametrize("form", [(), (("triton_grpc_error", "true"),)])
    async def test_nobody_waits(
        self, serve: Serve, streams: StreamingUpstream, policy: Cancellation, form: tuple[tuple[str, str], ...]
    ) -> None:
        """One on which a request is not answered ends as UNAVAILABLE, without any call beside it."""
        guard = await serve(address=streams.address, cancellation=policy, reach={"unresponsive_s": 0.8})
        async with talk(guard, metadata=form) as client:
            await client.send(request("a"))
            await client.hear()
            _fall_silent(streams)
            await client.send(request("b"))
            code, message, _ = await client.ended()
        assert code is grpc.StatusCode.UNAVAILABLE
        assert "answers nothing, not even whether it lives" in message
        assert guard.metrics.unresponsive == [True]
        assert guard.metrics.refused == ["upstream_unavailable"]
        assert guard.metrics.streamed == [("digits", "answered"), ("digits", "unknown")]
        if policy is Cancellation.NEVER:
            assert not streams.cancelled.is_set()

    async def test_nobody_waits_for_the_end(self, serve: Serve, streams: StreamingUpstream) -> None:
        """All was answered, and the client sends no more: the server owes the status still."""
        guard = await serve(address=streams.address, reach={"unresponsive_s": 0.8})
        async with talk(guard) as client:
            await client.send(request("a"))
            await client.hear()
            _fall_silent(streams)
            assert (await client.end())[0] is grpc.StatusCode.UNAVAILABLE
        assert guard.metrics.unresponsive == [True]
        assert guard.metrics.streamed == [("digits", "answered")]

    async def test_found_by_a_call(self, serve: Serve, streams: StreamingUpstream) -> None:
        """A call of another client finds it out: what waits ends, and what is sent then is refused, and not sent.

        A stream that is owed nothing stays, and goes on once the server answers again.
        """
        guard = await serve(address=streams.address, reach={"unresponsive_s": 0.8})
        async with talk(guard) as waiting, talk(guard) as late, talk(guard) as patient:
            for client in (waiting, late, patient):
                await client.send(request())
                await client.hear()
            _fall_silent(streams)
            await waiting.send(request())
            await until(lambda: len(streams.received) == 4)
            assert (await guard.call("ModelConfig")).code is grpc.StatusCode.UNAVAILABLE
            assert (await waiting.ended())[0] is grpc.StatusCode.UNAVAILABLE
            await late.send(request())
            assert (await late.ended())[0] is grpc.StatusCode.UNAVAILABLE
            assert len(streams.received) == 4
            assert guard.metrics.streamed == [*[("digits", "answered")] * 3, ("digits", "unknown")]
            streams.release.set()
            await until(lambda: guard.metrics.unresponsive == [True, False])
            await patient.send(request())
            assert not (await patient.hear()).error_message

    @pytest.mark.parametrize("decoupled", [False, True])
    async def test_slow_is_not_dead(self, serve: Serve, streams: StreamingUpstream, *, decoupled: bool) -> None:
        """A server that says that it lives has all the time, also one that answers never, or not for the last time."""
        streams.decoupled = {"digits"} if decoupled else set()
        streams.answer = lambda r: [response(r, final=not decoupled)] if r.id == "a" or not decoupled else []
        guard = await serve(address=streams.address, reach={"unresponsive_s": 0.8})
        async with talk(guard) as client:
            await client.send(request("a"))
            await client.hear()
            streams.release.clear()
            await client.send(request("b"))
            await asyncio.sleep(2.5)
            assert await client.silent()
            streams.release.set()
            await client.send(request("a"))
            await client.hear()
        assert guard.metrics.unresponsive == []

    @pytest.mark.parametrize("final", [False, True])
    async def test_between_answers(self, serve: Serve, streams: StreamingUpstream, *, final: bool) -> None:
        """A decoupled model owes answers until its final one."""
        streams.decoupled = {"digits"}
        streams.answer = lambda r: [response(r, final=each) for each in ((False, True) if final else (False,))]
        guard = await serve(address=streams.address, reach={"unresponsive_s": 0.8})
        async with talk(guard) as client:
            await client.send(request("a"))
            await client.hear_all(1 + final)
            _fall_silent(streams)
            if not final:
                assert (await client.ended())[0] is grpc.StatusCode.UNAVAILABLE
                return
            assert (await guard.call("ModelConfig")).code is grpc.StatusCode.UNAVAILABLE
            assert await client.silent()


def _fall_silent(streams: StreamingUpstream) -> None:
    streams.dead = True
    streams.release.clear()


async def test_deadlines_hold(serve: Serve, upstream: RecordingUpstream, message: bytes) -> None:
    """Who can't wait so long hears DEADLINE_EXCEEDED, as ever."""
    guard = await serve(cancellation=Cancellation.NEVER, reach={"unresponsive_s": 4 * PATIENCE_S})
    upstream.dead = True
    upstream.release.clear()
    began_s = time.monotonic()
    answer = await guard.call("ModelInfer", message, timeout=0.3)
    assert answer.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert time.monotonic() - began_s < PATIENCE_S


async def test_a_call_that_ends_without_a_word(upstream: RecordingUpstream) -> None:
    """GRPC calls nobody back for a call that it can't even begin: it ends all the same, and with it the waiting."""
    settings = UpstreamSettings(address=upstream.address)
    channel = AioChannel(Link(settings), 1024)
    breaker = Breaker(channel, upstream.address, 0.4, lambda _: None)
    called_back = asyncio.Event()
    call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")(b"", metadata=(("x-note", "a\n"),))
    call.add_done_callback(lambda _: called_back.set())
    try:
        assert await asyncio.wait_for(breaker.wait(call, None), PATIENCE_S)
        assert not called_back.is_set()
        assert not call.done()
        with pytest.raises(grpc.aio.BaseError):
            await call
    finally:
        await breaker.close()
        await channel.close()
