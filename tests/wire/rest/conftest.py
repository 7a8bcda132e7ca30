"""The HTTP server of a guard, in front of a real gRPC upstream that does as it is told."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import grpc
import pytest

from guard.config import Cancellation, Limits, Listen, ModelPolicy, ScreenOnly, Settings
from guard.config import Upstream as UpstreamSettings
from guard.pb.grpc_service_pb2 import ModelInferResponse
from guard.transport import ListenTls
from guard.values import Course, Decision
from guard.wire.passage import Passage
from guard.wire.rest import RestServer
from guard.wire.upstream import Upstream
from tests.wire.parts import SERVICE, Decide, FixedScreener, RecordedMetrics, RecordingUpstream
from tests.wire.rest.client import Answer, ask

INFER = "/v2/models/digits/infer"


class MethodicalUpstream(RecordingUpstream):
    """A v2 server with an answer of its own for some methods."""

    def __init__(self) -> None:
        super().__init__()
        self.bodies: dict[str, bytes] = {}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        """Take any method."""
        body = self.bodies.get(handler_call_details.method.removeprefix(SERVICE))
        if body is None:
            return super().service(handler_call_details)

        async def answer(_message: bytes, _context: Any) -> bytes:
            return body

        return grpc.unary_unary_rpc_method_handler(answer)


@dataclass
class Rest:
    """A guard that serves HTTP."""

    server: RestServer
    port: int
    screener: FixedScreener
    metrics: RecordedMetrics

    async def get(self, path: str, **headers: str) -> Answer:
        """Ask by GET."""
        return await ask(self.port, "GET", path, **headers)

    async def infer(self, body: bytes | dict[str, Any], path: str = INFER, **headers: str) -> Answer:
        """Ask for an inference."""
        encoded = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await ask(self.port, "POST", path, encoded, **headers)


StartRest = Callable[..., Awaitable[Rest]]


@pytest.fixture
async def upstream() -> AsyncIterator[MethodicalUpstream]:
    """The guarded server, started."""
    server = MethodicalUpstream()
    response = ModelInferResponse(model_name="digits", model_version="1", id="7", raw_output_contents=[b"\1\2"])
    response.outputs.add(name="out", datatype="UINT8", shape=[2])
    server.body = response.SerializeToString()
    await server.start()
    yield server
    server.release.set()
    await server.stop()


@pytest.fixture
def tensor() -> dict[str, Any]:
    """A batch of 8 for the model `digits`, as JSON."""
    return {"inputs": [{"name": "image", "datatype": "UINT8", "shape": [8, 1], "data": list(range(8))}], "id": "7"}


@pytest.fixture
async def rest(upstream: MethodicalUpstream, decide: Decide) -> AsyncIterator[StartRest]:
    """A function that starts the HTTP server of a guard in front of the upstream."""
    running: list[tuple[Rest, Upstream]] = []

    async def start(
        outcome: Decision | Exception | None = None,
        *,
        max_message_bytes: int = 1024 * 1024,
        course: Course = Course.BEFORE,
        address: str | None = None,
        tls: ListenTls | None = None,
        cancellation: Cancellation = Cancellation.NEVER,
    ) -> Rest:
        to = UpstreamSettings(
            address=address or upstream.address, max_message_bytes=max_message_bytes, cancellation=cancellation
        )
        settings = Settings(
            upstream=to,
            listen=Listen(tls=tls),
            limits=Limits(max_inflight_bytes=max_message_bytes),
            models={"digits": ModelPolicy(profile="unused")},
            screen_only=ScreenOnly.ALLOW,
        )
        screener, metrics = FixedScreener(outcome or decide()), RecordedMetrics()
        screener.way = course
        connection = Upstream(to, metrics)
        server = RestServer(Passage(screener, connection, settings, metrics), connection, settings, metrics)
        started = Rest(server, await server.start("127.0.0.1:0"), screener, metrics)
        running.append((started, connection))
        return started

    yield start
    upstream.release.set()
    for started, connection in running:
        started.screener.release.set()
        await started.server.stop(0.0)
        await connection.close(0.0)
