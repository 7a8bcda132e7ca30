"""Clients of streams that leave, whenever it is, and one that stops to read."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from guard.config import Cancellation
from guard.values import Course, Decision, InferRequest
from guard.wire import stream_answers
from tests.support.waiting import PATIENCE_S
from tests.wire.parts import Decide, Serve
from tests.wire.stream_parts import ByValue, taken_bytes, talk, until
from tests.wire.stream_upstream import StreamingUpstream, large, request, response


@pytest.mark.parametrize("policy", [Cancellation.ALWAYS, Cancellation.NEVER])
async def test_client_leaves(serve: Serve, streams: StreamingUpstream, policy: Cancellation) -> None:
    """A cancellation reaches the upstream with `always`; with `never` its stream is finished and read out."""
    streams.release.clear()
    guard = await serve(address=streams.address, cancellation=policy)
    async with talk(guard) as client:
        await client.send(request("a"), request("b"))
        await until(lambda: len(streams.received) == 2)
    if policy is Cancellation.ALWAYS:
        await asyncio.wait_for(streams.cancelled.wait(), PATIENCE_S)
    else:
        await asyncio.wait_for(streams.half_closed.wait(), PATIENCE_S)
        assert not streams.cancelled.is_set()
        streams.release.set()
    await until(lambda: any(each["duration_s"] is None for each in guard.metrics.upstream))
    code = guard.metrics.upstream[-1]["code"]
    assert code == ("CANCELLED" if policy is Cancellation.ALWAYS else "OK")
    assert taken_bytes(guard) == guard.metrics.live == 0


async def test_client_leaves_a_slow_upstream(serve: Serve, streams: StreamingUpstream) -> None:
    """With `never`, what is being written to the upstream when the client leaves arrives whole."""
    streams.reads.clear()
    guard = await serve(address=streams.address, max_inflight_bytes=100_000_000)
    async with talk(guard) as client:
        await client.send(*(large(n) for n in range(5)))
        await until(lambda: streams.metadata)
        await asyncio.sleep(0.2)
    await asyncio.sleep(0.1)
    streams.reads.set()
    await asyncio.wait_for(streams.half_closed.wait(), PATIENCE_S)
    assert not streams.cancelled.is_set()
    assert streams.requests == [large(n) for n in range(len(streams.received))]


async def test_client_leaves_while_its_stream_ends(serve: Serve, streams: StreamingUpstream, decide: Decide) -> None:
    """Whenever the client leaves, its stream at the upstream is not forgotten."""
    streams.decoupled, streams.answer = {"many"}, lambda _: []
    judge, tidying = ByValue(decide, rejected={2}, held={2: asyncio.Event()}), asyncio.Event()

    async def slow_to_stop(asked: InferRequest) -> Decision:
        if asked.request_id != "slow":
            return await judge(asked)
        judge.held[2].set()
        try:
            await asyncio.sleep(PATIENCE_S)
        finally:
            tidying.set()
            await asyncio.sleep(0.2)
        return await judge(asked)

    guard = await serve(slow_to_stop, address=streams.address)
    async with talk(guard, metadata=(("triton_grpc_error", "true"),)) as client:
        await client.send(request("a", model="many"))
        await until(lambda: len(streams.received) == 1)
        await client.send(request("b", model="many", value=2), request("slow"))
        await asyncio.wait_for(tidying.wait(), PATIENCE_S)
    await asyncio.wait_for(streams.half_closed.wait(), PATIENCE_S)


async def test_client_leaves_before_the_verdict(serve: Serve, streams: StreamingUpstream, decide: Decide) -> None:
    """Messages that are still screened are given up, counted without a decision, and hold nothing."""
    judge = ByValue(decide, held={1: asyncio.Event()})
    guard = await serve(judge, address=streams.address)
    async with talk(guard) as client:
        await client.send(request(), request())
        await until(lambda: judge.now == 2)
    await until(lambda: len(guard.metrics.finished) == 2)
    assert [each["decision"] for each in guard.metrics.finished] == [None, None]
    assert not streams.metadata
    assert taken_bytes(guard) == guard.metrics.live == judge.now == 0


async def test_watched_messages_are_judged_without_their_client(serve: Serve, streams: StreamingUpstream) -> None:
    """In shadow mode nobody escapes the record by leaving."""
    guard = await serve(address=streams.address, course=Course.BEHIND)
    guard.screener.release.clear()
    async with talk(guard) as client:
        await client.send(request("a"))
        await client.hear()
    await asyncio.sleep(0.05)
    assert taken_bytes(guard) > 0
    guard.screener.release.set()
    await until(lambda: len(guard.metrics.finished) == 1)
    assert guard.metrics.finished[0]["decision"] is not None
    assert taken_bytes(guard) == 0


@pytest.mark.parametrize("policy", [Cancellation.ALWAYS, Cancellation.NEVER])
async def test_deadline(serve: Serve, streams: StreamingUpstream, policy: Cancellation) -> None:
    """A client's deadline ends its stream; the upstream has it with `always` only."""
    streams.release.clear()
    guard = await serve(address=streams.address, cancellation=policy)
    async with talk(guard, timeout=3.0) as client:
        await client.send(request())
        assert (await client.ended())[0] is grpc.StatusCode.DEADLINE_EXCEEDED
    assert (streams.deadlines[0] is not None) == (policy is Cancellation.ALWAYS)
    (_, deadline_s) = guard.screener.asked[0]
    assert 0 < deadline_s <= 3.1  # gRPC rounds up


async def test_client_that_does_not_read(
    serve: Serve, streams: StreamingUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers that nobody reads hold up the requests; once they are read, all are answered."""
    monkeypatch.setattr(stream_answers, "MAX_UNANSWERED", 8)
    streams.answer = lambda r: [response(r, body=bytes(200_000))]
    guard = await serve(address=streams.address)
    async with talk(guard) as client:
        await client.send(*(request(f"{n}") for n in range(200)))
        await until(lambda: len(streams.received) >= 8)
        seen = -1
        while seen != len(streams.received):
            seen = len(streams.received)
            await asyncio.sleep(0.2)
        assert 8 <= seen < 150
        assert taken_bytes(guard) < 10_000
        heard = await client.hear_all(200)
    assert [each.infer_response.id for each in heard] == [f"{n}" for n in range(200)]
