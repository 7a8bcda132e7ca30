"""A guard on a real socket, between a real gRPC client and a real gRPC upstream that does as it is told."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

import grpc
import pytest

from guard.config import Cancellation, Limits, Listen, ModelPolicy, ScreenOnly, Settings
from guard.config import Upstream as UpstreamSettings
from guard.pb.grpc_service_pb2 import ModelInferRequest
from guard.values import Action, Course, Decision, ItemDecision, Mode, UnscreenedReason, Verdict
from guard.wire.server import GuardServer
from tests.support import ports
from tests.wire.parts import Decide, FixedScreener, RecordedMetrics, RecordingUpstream, Running, Serve
from tests.wire.stream_parts import Screen
from tests.wire.stream_upstream import StreamingUpstream


@pytest.fixture
def decide() -> Decide:
    """Build a decision: `decide(Verdict.CLEAN, Action.FORWARD, mode=..., items=(verdicts))`."""

    def build(
        verdict: Verdict = Verdict.CLEAN,
        action: Action = Action.FORWARD,
        *,
        mode: Mode = Mode.ENFORCE,
        items: tuple[Verdict, ...] | None = None,
        reason: UnscreenedReason | None = None,
    ) -> Decision:
        verdicts = (verdict,) if items is None else items
        judged = tuple(ItemDecision(item, 0.123456, ()) for item in verdicts)
        return Decision("d-1", "digits", mode, verdict, 0.123456, action, action, judged, reason)

    return build


@pytest.fixture
def message() -> bytes:
    """A batch of 8 for the model `digits`, raw."""
    request = ModelInferRequest(model_name="digits", id="7", raw_input_contents=[bytes(range(8))])
    request.inputs.add(name="image", datatype="UINT8", shape=[8, 1])
    return request.SerializeToString()


@pytest.fixture
async def upstream() -> AsyncIterator[RecordingUpstream]:
    """The guarded server, started."""
    server = RecordingUpstream()
    await server.start()
    yield server
    server.release.set()
    await server.stop()


@pytest.fixture
async def streams() -> AsyncIterator[StreamingUpstream]:
    """A guarded server with streams, started."""
    server = StreamingUpstream()
    await server.start()
    yield server
    server.release.set()
    server.reads.set()
    await server.stop()


@pytest.fixture
def free_address() -> str:
    """An address on which nothing listens."""
    return ports.free_address()


@pytest.fixture
async def serve(upstream: RecordingUpstream, decide: Decide) -> AsyncIterator[Serve]:
    """A function that starts a guard in front of the upstream and returns it, serving."""
    running: list[Running] = []

    async def start(
        outcome: Decision | Exception | Screen | None = None,
        *,
        cancellation: Cancellation = Cancellation.NEVER,
        max_message_bytes: int = 1024 * 1024,
        address: str | None = None,
        course: Course = Course.BEFORE,
        max_inflight_bytes: int = 1024 * 1024,
        listen: Mapping[str, Any] | None = None,
        reach: Mapping[str, Any] | None = None,
        credentials: grpc.ChannelCredentials | None = None,
        screen_only: ScreenOnly = ScreenOnly.ALLOW,
    ) -> Running:
        settings = Settings(
            upstream=UpstreamSettings(
                address=address or upstream.address,
                cancellation=cancellation,
                max_message_bytes=max_message_bytes,
                **(reach or {}),
            ),
            listen=Listen(**{"address": "127.0.0.1:0"} | dict(listen or {})),
            limits=Limits(max_inflight_bytes=max_inflight_bytes),
            models={"digits": ModelPolicy(profile="unused")},
            screen_only=screen_only,
        )
        screener, metrics = FixedScreener(outcome or decide()), RecordedMetrics()
        screener.way = course

        readiness = {"ready": True}

        async def ready() -> bool:
            return readiness["ready"]

        server = GuardServer(
            screener=screener, settings=settings, metrics=metrics, ready=ready, readiness_interval_s=0.01
        )
        port = await server.start()
        bound = f"127.0.0.1:{port}" if port else settings.listen.address
        channel = (
            grpc.aio.insecure_channel(bound) if credentials is None else grpc.aio.secure_channel(bound, credentials)
        )
        guard = Running(server, bound, screener, metrics, channel, readiness)
        running.append(guard)
        return guard

    yield start
    upstream.release.set()
    for guard in running:
        guard.screener.release.set()
        await guard.channel.close()
        await guard.server.stop(1.0)
