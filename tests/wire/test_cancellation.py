"""Deadlines and cancellations: what reaches the upstream, by policy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import grpc
import pytest

from guard.config import Cancellation
from guard.config import Upstream as UpstreamSettings
from guard.errors import DeadlineExceeded, Overloaded
from guard.wire.upstream import Call, Reply, Upstream
from tests.wire.parts import RecordingUpstream, Serve


class TestDeadlines:
    """A client's deadline, by policy."""

    async def test_passed_on(self, serve: Serve, upstream: RecordingUpstream, message: bytes) -> None:
        """With `always`, the upstream gets what is left of the client's deadline, and none where there is none."""
        guard = await serve(cancellation=Cancellation.ALWAYS)
        await guard.call("ModelInfer", message, timeout=300)
        await guard.call("ModelInfer", message)
        first, second = upstream.inferred()
        assert 200 < first.deadline_s < 305  # gRPC rounds up on each hop
        assert second.deadline_s is None

    async def test_expires_upstream(self, serve: Serve, upstream: RecordingUpstream, message: bytes) -> None:
        """With `always`, a deadline that runs out ends the call at the upstream too."""
        upstream.release.clear()
        guard = await serve(cancellation=Cancellation.ALWAYS)
        answer = await guard.call("ModelInfer", message, timeout=3.0)
        assert answer.code is grpc.StatusCode.DEADLINE_EXCEEDED
        await upstream.cancelled.wait()

    async def test_shielded(self, serve: Serve, upstream: RecordingUpstream, message: bytes) -> None:
        """With `never`, the client's deadline is answered while the upstream works on, undisturbed."""
        upstream.release.clear()
        guard = await serve(cancellation=Cancellation.NEVER)
        answer = await guard.call("ModelInfer", message, timeout=3.0)
        assert answer.code is grpc.StatusCode.DEADLINE_EXCEEDED
        assert upstream.inferred()[0].deadline_s is None
        upstream.release.set()
        await upstream.finished.wait()
        assert not upstream.cancelled.is_set()

    async def test_absurd_deadline_is_none(self, serve: Serve, upstream: RecordingUpstream, message: bytes) -> None:
        """A deadline centuries away is no deadline."""
        guard = await serve(cancellation=Cancellation.ALWAYS)
        await guard.call("ModelInfer", message, timeout=4e8)
        assert upstream.inferred()[0].deadline_s is None
        assert guard.screener.asked[0][1] is None


class TestCancellation:
    """A client that leaves, by policy."""

    @pytest.mark.parametrize("policy", [Cancellation.ALWAYS, Cancellation.NEVER])
    async def test_client_leaves(
        self, serve: Serve, upstream: RecordingUpstream, message: bytes, policy: Cancellation
    ) -> None:
        """A client's cancellation reaches the upstream with `always`; with `never` the upstream runs to its end."""
        upstream.release.clear()
        guard = await serve(cancellation=policy)
        call = guard.start_call("ModelInfer", message)
        waiting = asyncio.ensure_future(call.code())
        await upstream.started.wait()
        call.cancel()
        await guard.metrics.request_ended.wait()
        if policy is Cancellation.ALWAYS:
            await upstream.cancelled.wait()
        upstream.release.set()
        if policy is Cancellation.NEVER:
            await upstream.finished.wait()
            assert not upstream.cancelled.is_set()
        assert await waiting is grpc.StatusCode.CANCELLED
        assert guard.metrics.live == 0

    @pytest.mark.parametrize(
        ("name", "passed_on"),
        [("guard-embedded", True), ("mlserver", True), ("kserve", True), ("triton", False), ("somebody-else", False)],
    )
    async def test_auto(
        self, serve: Serve, upstream: RecordingUpstream, message: bytes, name: str, *, passed_on: bool
    ) -> None:
        """With `auto`, deadlines reach only servers that are known to survive them, once known; it asks once."""
        upstream.server_name = name
        guard = await serve(cancellation=Cancellation.AUTO)
        await guard.call("ModelInfer", message, timeout=300)
        await guard.server._running[2]._cancellation._lookup
        for _ in range(2):
            await guard.call("ModelInfer", message, timeout=300)
        first, *later = [call.deadline_s for call in upstream.inferred()]
        assert first is None
        assert [deadline_s is not None for deadline_s in later] == [passed_on] * 2
        assert [call.method for call in upstream.received].count("ServerMetadata") == 1

    async def test_auto_asks_again_after_a_reconnect(
        self, serve: Serve, upstream: RecordingUpstream, message: bytes
    ) -> None:
        """With `auto`, another server behind the same address is asked who it is before it is trusted."""
        upstream.server_name = "mlserver"
        guard = await serve(cancellation=Cancellation.AUTO)
        policy = guard.server._running[2]._cancellation
        await guard.call("ModelInfer", message)
        await policy._lookup
        assert policy.passes_on()
        await upstream.stop()
        upstream.server_name = "triton"
        await upstream.start(upstream.address)
        while (await guard.call("ModelInfer", message, timeout=300)).code is not grpc.StatusCode.OK:
            pass  # until gRPC tries to connect again
        assert upstream.inferred()[-1].deadline_s is None
        await policy._lookup
        assert not policy.passes_on()

    async def test_auto_without_an_answer_shields(self, serve: Serve, free_address: str) -> None:
        """With `auto`, an upstream that doesn't say who it is gets no deadline, and is asked again."""
        guard = await serve(cancellation=Cancellation.AUTO, address=free_address)
        policy = guard.server._running[2]._cancellation
        assert not policy.passes_on()
        first = policy._lookup
        await first
        assert not policy.passes_on()
        assert policy._lookup is not first


class TestShieldedCalls:
    """The upstream's side of a shielded call, without a server in front."""

    @pytest.fixture
    async def shielded(self, upstream: RecordingUpstream, serve: Serve) -> AsyncIterator[Upstream]:
        """An Upstream that never passes cancellation on, and may have one abandoned call."""
        metrics = (await serve()).metrics
        settings = UpstreamSettings(address=upstream.address, cancellation=Cancellation.NEVER)
        client = Upstream(settings, metrics, max_abandoned_calls=1)
        yield client
        upstream.release.set()
        await client.close(1.0)

    @staticmethod
    def infer(deadline_s: float | None) -> Call:
        """A call with so many seconds left."""
        return Call("/inference.GRPCInferenceService/ModelInfer", b"x", (), deadline_s)

    async def test_guard_answers_the_deadline_itself(self, shielded: Upstream, upstream: RecordingUpstream) -> None:
        """The deadline is Guard's to keep: the call raises while the upstream still works."""
        upstream.release.clear()
        with pytest.raises(DeadlineExceeded, match="while the upstream was working"):
            await shielded.call(self.infer(0.05))
        assert not upstream.finished.is_set()

    async def test_abandoned_calls_are_bounded(self, shielded: Upstream, upstream: RecordingUpstream) -> None:
        """Over the bound new calls are refused, until an abandoned one ends."""
        upstream.release.clear()
        with pytest.raises(DeadlineExceeded):
            await shielded.call(self.infer(0.05))
        with pytest.raises(Overloaded, match="still works on 1 request whose clients have left"):
            await shielded.call(self.infer(None))
        (abandoned,) = shielded._abandoned
        upstream.release.set()
        await asyncio.wait({abandoned})
        assert (await shielded.call(self.infer(None))).code is grpc.StatusCode.OK

    async def test_no_client_leaves_none_to_others(self, shielded: Upstream, upstream: RecordingUpstream) -> None:
        """Who leaves calls behind, however many at once, is refused at half of the bound; others are at all of it."""
        shielded._max_abandoned_calls = 4
        upstream.release.clear()

        async def leave(client: str, number: int) -> list[BaseException | Reply]:
            calls = (shielded.call(replace(self.infer(0.2), client=client)) for _ in range(number))
            return await asyncio.gather(*calls, return_exceptions=True)

        assert [type(each) for each in await leave("a", 6)] == [DeadlineExceeded] * 6
        with pytest.raises(Overloaded, match="still works on 6 requests that this client has left"):
            await shielded.call(replace(self.infer(None), client="a"))
        assert [type(each) for each in await leave("b", 1)] == [DeadlineExceeded]
        assert [type(each) for each in await leave("c", 1)] == [DeadlineExceeded]
        with pytest.raises(Overloaded, match="still works on 8 requests whose clients have left"):
            await shielded.call(replace(self.infer(None), client="d"))
        abandoned = set(shielded._abandoned)
        upstream.release.set()
        await asyncio.wait(abandoned)
        assert not shielded._left
        assert (await shielded.call(replace(self.infer(None), client="a"))).code is grpc.StatusCode.OK

    async def test_expired_before_it_was_sent(self, shielded: Upstream, upstream: RecordingUpstream) -> None:
        """A request whose deadline is over costs the upstream nothing."""
        with pytest.raises(DeadlineExceeded, match="before the request was sent"):
            await shielded.call(self.infer(0.0))
        assert upstream.received == []

    async def test_close_waits_for_abandoned_calls(self, shielded: Upstream, upstream: RecordingUpstream) -> None:
        """Closing lets what still runs at the upstream end, within the grace period."""
        upstream.release.clear()
        with pytest.raises(DeadlineExceeded):
            await shielded.call(self.infer(0.05))
        closing = asyncio.create_task(shielded.close(30))
        await asyncio.sleep(0)
        upstream.release.set()
        await closing
        assert upstream.finished.is_set()
        assert not upstream.cancelled.is_set()
