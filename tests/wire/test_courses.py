"""The upstream before, beside and with no regard to the screening."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from guard.errors import MalformedRequest
from guard.pb.grpc_service_pb2 import ModelInferRequest, ModelInferResponse
from guard.values import Action, Course, Mode, Verdict
from tests.support.waiting import PATIENCE_S, until
from tests.wire.parts import Decide, RecordingUpstream, Serve


async def soon(event: asyncio.Event) -> None:
    """Wait for what has to happen."""
    async with asyncio.timeout(PATIENCE_S):
        await event.wait()


class TestBefore:
    """Screening comes first."""

    async def test_nothing_is_forwarded_before_the_verdict(
        self, serve: Serve, upstream: RecordingUpstream, message: bytes
    ) -> None:
        """The upstream hears of a request once it is judged."""
        guard = await serve()
        guard.screener.release.clear()
        answer = asyncio.create_task(guard.call("ModelInfer", message))
        await soon(guard.screener.entered)
        await asyncio.sleep(0.05)
        assert not upstream.inferred()
        guard.screener.release.set()
        assert (await answer).code is grpc.StatusCode.OK


class TestBeside:
    """The upstream runs while screening does, and its answer is held back."""

    async def test_held_back(self, serve: Serve, upstream: RecordingUpstream, message: bytes) -> None:
        """The upstream has answered, and the client hears of it with the verdict."""
        guard = await serve(course=Course.BESIDE)
        guard.screener.release.clear()
        answer = asyncio.create_task(guard.call("ModelInfer", message))
        await soon(upstream.finished)
        await asyncio.sleep(0.05)
        assert not answer.done()
        guard.screener.release.set()
        body = ModelInferResponse.FromString((await answer).body)
        assert body.parameters["guard_verdict"].string_param == "clean"

    async def test_overhead_is_what_screening_takes_longer(
        self, serve: Serve, upstream: RecordingUpstream, message: bytes
    ) -> None:
        """Where inference outlasts screening, next to nothing is added."""
        upstream.release.clear()
        guard = await serve(course=Course.BESIDE)
        answer = asyncio.create_task(guard.call("ModelInfer", message))
        await soon(upstream.started)
        await asyncio.sleep(0.3)
        upstream.release.set()
        await answer
        (finished,) = guard.metrics.finished
        assert 0 < finished["overhead_s"] <= finished["duration_s"] - 0.3

    @pytest.mark.parametrize("answered", [True, False])
    async def test_rejected(
        self, serve: Serve, upstream: RecordingUpstream, decide: Decide, message: bytes, *, answered: bool
    ) -> None:
        """What the upstream computes for a rejected request is thrown away, be it there already or not."""
        if not answered:
            upstream.release.clear()
        guard = await serve(decide(Verdict.ADVERSARIAL, Action.REJECT), course=Course.BESIDE)
        guard.screener.release.clear()
        pending = asyncio.create_task(guard.call("ModelInfer", message))
        await soon(upstream.finished if answered else upstream.started)
        guard.screener.release.set()
        answer = await pending
        assert answer.code is grpc.StatusCode.PERMISSION_DENIED
        assert not answer.body
        assert guard.metrics.finished[0]["decision"].action is Action.REJECT

    @pytest.mark.parametrize("said", [{"sequence_id": 7}, {"sequence_start": 1}, {"sequence_end": 1}])
    async def test_a_sequence_waits(
        self, serve: Serve, upstream: RecordingUpstream, decide: Decide, message: bytes, said: dict[str, int]
    ) -> None:
        """A rejected request of a sequence never reaches the upstream, which would note it in the sequence's state."""
        guard = await serve(decide(Verdict.ADVERSARIAL, Action.REJECT), course=Course.BESIDE)
        guard.screener.release.clear()
        parsed = ModelInferRequest.FromString(message)
        for name, value in said.items():
            parsed.parameters[name].int64_param = value
        pending = asyncio.create_task(guard.call("ModelInfer", parsed.SerializeToString()))
        await soon(guard.screener.entered)
        await asyncio.sleep(0.05)
        guard.screener.release.set()
        assert (await pending).code is grpc.StatusCode.PERMISSION_DENIED
        assert not upstream.inferred()

    async def test_refused_at_once(self, serve: Serve, upstream: RecordingUpstream, message: bytes) -> None:
        """A request that can't be understood never reaches the upstream."""
        guard = await serve(MalformedRequest("bad shape"), course=Course.BESIDE)
        answer = await guard.call("ModelInfer", message)
        assert answer.code is grpc.StatusCode.INVALID_ARGUMENT
        await asyncio.sleep(0.05)
        assert not upstream.inferred()

    async def test_given_up(self, serve: Serve, upstream: RecordingUpstream, message: bytes) -> None:
        """A client that leaves ends the screening too, and its request is counted without a decision."""
        upstream.release.clear()
        guard = await serve(course=Course.BESIDE)
        guard.screener.release.clear()
        call = guard.start_call("ModelInfer", message)
        pending = asyncio.ensure_future(call.code())
        await soon(upstream.started)
        call.cancel()
        await pending
        await soon(guard.screener.cancelled)
        await soon(guard.metrics.request_ended)
        assert guard.metrics.finished[0]["decision"] is None


class TestBehind:
    """Guard only watches."""

    async def test_nobody_waits(
        self, serve: Serve, upstream: RecordingUpstream, decide: Decide, message: bytes
    ) -> None:
        """The client has the upstream's answer while screening goes on, whose verdict is counted when it is there."""
        guard = await serve(decide(Verdict.ADVERSARIAL, mode=Mode.SHADOW), course=Course.BEHIND)
        guard.screener.release.clear()
        answer = await guard.call("ModelInfer", message, timeout=30)
        assert answer.body == upstream.body
        assert not guard.metrics.finished
        guard.screener.release.set()
        await soon(guard.metrics.request_ended)
        (finished,) = guard.metrics.finished
        assert finished["decision"].verdict is Verdict.ADVERSARIAL
        assert [deadline_s for _, deadline_s in guard.screener.asked] == [None]

    async def test_a_client_that_leaves_is_judged(
        self, serve: Serve, upstream: RecordingUpstream, decide: Decide, message: bytes
    ) -> None:
        """Nobody escapes the record by cancelling."""
        upstream.release.clear()
        guard = await serve(decide(mode=Mode.SHADOW), course=Course.BEHIND)
        guard.screener.release.clear()
        call = guard.start_call("ModelInfer", message)
        pending = asyncio.ensure_future(call.code())
        await soon(upstream.started)
        call.cancel()
        await pending
        guard.screener.release.set()
        await soon(guard.metrics.request_ended)
        assert guard.metrics.finished[0]["decision"] is not None

    async def test_a_failed_screening_is_counted(
        self, serve: Serve, upstream: RecordingUpstream, message: bytes
    ) -> None:
        """What goes wrong in Guard costs the client nothing, and is counted."""
        guard = await serve(RuntimeError("a bug"), course=Course.BEHIND)
        answer = await guard.call("ModelInfer", message)
        assert answer.body == upstream.body
        await soon(guard.metrics.request_ended)
        assert guard.metrics.refused == ["internal"]

    async def test_stopping_waits(self, serve: Serve, decide: Decide, message: bytes) -> None:
        """A guard that stops gives what it still watches its grace."""
        guard = await serve(decide(mode=Mode.SHADOW), course=Course.BEHIND)
        guard.screener.release.clear()
        await guard.call("ModelInfer", message)
        stopping = asyncio.create_task(guard.server.stop(PATIENCE_S))
        await asyncio.sleep(0.05)
        guard.screener.release.set()
        await stopping
        assert guard.metrics.finished[0]["decision"] is not None


class TestRoom:
    """Bytes in flight are bounded."""

    async def test_too_much_in_flight(self, serve: Serve, upstream: RecordingUpstream, message: bytes) -> None:
        """A request that would go over the bound is refused, and there is room again when the others are done."""
        upstream.release.clear()
        guard = await serve(max_inflight_bytes=2 * len(message))
        first = [asyncio.create_task(guard.call("ModelInfer", message)) for _ in range(2)]
        await until(lambda: len(upstream.inferred()) == 2)
        refused = await guard.call("ModelInfer", message)
        assert refused.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "limits.max_inflight_bytes" in refused.message
        upstream.release.set()
        for each in first:
            assert (await each).code is grpc.StatusCode.OK
        assert (await guard.call("ModelInfer", message)).code is grpc.StatusCode.OK

    async def test_one_always_fits(self, serve: Serve, message: bytes) -> None:
        """A single request is never too large for the room."""
        guard = await serve(max_inflight_bytes=1)
        assert (await guard.call("ModelInfer", message)).code is grpc.StatusCode.OK

    async def test_what_is_watched_takes_room(self, serve: Serve, decide: Decide, message: bytes) -> None:
        """An answered request takes room for as long as it is still screened."""
        guard = await serve(decide(mode=Mode.SHADOW), course=Course.BEHIND, max_inflight_bytes=len(message))
        guard.screener.release.clear()
        assert (await guard.call("ModelInfer", message)).code is grpc.StatusCode.OK
        assert (await guard.call("ModelInfer", message)).code is grpc.StatusCode.RESOURCE_EXHAUSTED
