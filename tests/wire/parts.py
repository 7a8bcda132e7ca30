"""What the wire is tested between: an upstream, a screener and metrics that do as told and keep what they saw."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc

from guard.pb.grpc_service_pb2 import ModelInferResponse, ServerMetadataResponse
from guard.values import Course, Decision, InferenceOutcome, InferRequest, Provenance
from guard.wire.server import GuardServer

SERVICE = "/inference.GRPCInferenceService/"


@dataclass
class Received:
    """A call as the upstream got it."""

    method: str
    message: bytes
    metadata: dict[str, str | bytes]
    deadline_s: float | None


class RecordingUpstream(grpc.GenericRpcHandler):
    """A v2 server that keeps the exact bytes of each call, and answers, fails or waits as told."""

    def __init__(self) -> None:
        self.received: list[Received] = []
        self.body = ModelInferResponse(model_name="digits", raw_output_contents=[b"out"]).SerializeToString()
        self.server_name = "recorder"
        self.initial_metadata: tuple = ()
        self.trailing_metadata: tuple = ()
        self.failure: tuple[grpc.StatusCode, str] | None = None
        self.release = asyncio.Event()
        self.release.set()
        self.started, self.cancelled, self.finished = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.dead = False
        self.address = ""

    async def start(
        self,
        address: str = "127.0.0.1:0",
        *,
        credentials: grpc.ServerCredentials | None = None,
        options: tuple[tuple[str, int], ...] = (),
    ) -> None:
        """Serve, on a free port unless told which."""
        self._server = grpc.aio.server(handlers=(self,), options=(("grpc.so_reuseport", 0), *options))
        if credentials is None:
            port = self._server.add_insecure_port(address)
        else:
            port = self._server.add_secure_port(address, credentials)
        self.address = f"127.0.0.1:{port}"
        await self._server.start()

    async def stop(self) -> None:
        """Cut all connections."""
        await self._server.stop(None)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        """Take any method."""
        method = handler_call_details.method.removeprefix(SERVICE)

        async def answer(message: bytes, context: Any) -> bytes:
            if method == "ServerLive" and not self.release.is_set() and not self.dead:
                return b""  # Guard asks while its calls wait
            metadata = dict(context.invocation_metadata())
            self.received.append(Received(method, message, metadata, context.time_remaining()))
            if method == "ServerMetadata":
                return ServerMetadataResponse(name=self.server_name, version="2.51.0").SerializeToString()
            return await self._answer(context)

        return grpc.unary_unary_rpc_method_handler(answer)

    async def _answer(self, context: Any) -> bytes:
        self.started.set()
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        self.finished.set()
        if self.initial_metadata:
            await context.send_initial_metadata(self.initial_metadata)
        if self.failure is not None:
            await context.abort(*self.failure, self.trailing_metadata)
        context.set_trailing_metadata(self.trailing_metadata)
        return self.body

    def inferred(self) -> list[Received]:
        """The ModelInfer calls so far."""
        return [call for call in self.received if call.method == "ModelInfer"]


class FixedScreener:
    """Decides as told, always alike or by the request, and keeps what it was asked."""

    def __init__(self, outcome: Decision | Exception | Callable[[InferRequest], Awaitable[Decision]]) -> None:
        self.outcome = outcome
        self.asked: list[tuple[InferRequest, float | None]] = []
        self.ids: list[str] = []
        self.clients: list[str] = []
        self.why_unverified = ""
        self.way = Course.BEFORE
        self.release = asyncio.Event()
        self.release.set()
        self.entered, self.cancelled = asyncio.Event(), asyncio.Event()

    def now(self) -> FixedScreener:
        """Itself."""
        return self

    def listed_as(self, model: str, _version: str) -> str:
        """The model."""
        return model

    def version(self, _model: str, version: str) -> str:
        """What is asked for."""
        return version

    def course(self, _model: str, _version: str = "") -> Course:
        """As told."""
        return self.way

    async def screen(
        self, request: InferRequest, *, decision_id: str, deadline_s: float | None, client: str = ""
    ) -> Decision:
        """Decide as told."""
        self.asked.append((request, deadline_s))
        self.ids.append(decision_id)
        self.clients.append(client)
        self.entered.set()
        if isinstance(self.outcome, Exception):
            raise self.outcome
        if not isinstance(self.outcome, Decision):
            return await self.outcome(request)
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return self.outcome

    def provenance(self, _request: InferRequest) -> Provenance:
        """Nothing is known of it."""
        return Provenance()

    def unverified(self, _request: InferRequest) -> str:
        """As told."""
        return self.why_unverified


@dataclass
class RecordedMetrics:
    """Keeps what the wire reports."""

    finished: list[dict[str, Any]] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    upstream: list[dict[str, Any]] = field(default_factory=list)
    streamed: list[tuple[str, InferenceOutcome]] = field(default_factory=list)
    carried: list[str] = field(default_factory=list)
    stale: dict[str, Callable[[], bool]] = field(default_factory=dict)
    ends_s: dict[str, Callable[[], float]] = field(default_factory=dict)
    unresponsive: list[bool] = field(default_factory=list)
    live: int = 0
    request_ended: asyncio.Event = field(default_factory=asyncio.Event)

    def request_finished(self, **values: Any) -> None:
        """Keep it."""
        self.finished.append(values | {"live": self.live})
        self.request_ended.set()

    def request_refused(self, error_code: str) -> None:
        """Keep it."""
        self.refused.append(error_code)

    def upstream_finished(self, **values: Any) -> None:
        """Keep it."""
        self.upstream.append(values)

    def upstream_streamed(self, model: str, outcome: InferenceOutcome) -> None:
        """Keep it."""
        self.streamed.append((model, outcome))

    def upstream_carried(self, model: str) -> None:
        """Keep it."""
        self.carried.append(model)

    def upstream_unresponsive(self, now: bool) -> None:  # noqa: FBT001 - as in the protocol
        """Keep it."""
        self.unresponsive.append(now)

    def watch_credentials(
        self, section: str, stale: Callable[[], bool], ends_s: Mapping[str, Callable[[], float]]
    ) -> None:
        """Keep what can be asked."""
        self.stale[section] = stale
        self.ends_s |= ends_s

    @contextmanager
    def inflight(self) -> Iterator[None]:
        """Count it."""
        self.live += 1
        try:
            yield
        finally:
            self.live -= 1


@dataclass
class Answer:
    """What a client sees of a call."""

    code: grpc.StatusCode
    message: str | None
    body: bytes
    initial: dict[str, str | bytes]
    trailing: dict[str, str | bytes]


@dataclass
class Running:
    """A guard that serves, with a client's channel to it."""

    server: GuardServer
    address: str
    screener: FixedScreener
    metrics: RecordedMetrics
    channel: grpc.aio.Channel
    readiness: dict[str, bool]

    def start_call(self, method: str, message: bytes = b"", **options: Any) -> grpc.aio.UnaryUnaryCall:
        """Begin a call to a v2 method, or to any by its full path."""
        path = method if method.startswith("/") else SERVICE + method
        return self.channel.unary_unary(path)(message, **options)

    async def call(self, method: str, message: bytes = b"", **options: Any) -> Answer:
        """Make a call and wait for its end."""
        call = self.start_call(method, message, **options)
        try:
            body = await call
        except grpc.aio.AioRpcError:
            body = b""
        initial, trailing = dict(await call.initial_metadata() or ()), dict(await call.trailing_metadata() or ())
        return Answer(await call.code(), await call.details(), body, initial, trailing)


Decide = Callable[..., Decision]
Serve = Callable[..., Awaitable[Running]]
