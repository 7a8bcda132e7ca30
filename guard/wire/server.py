"""Guard's servers: gRPC, and HTTP and the one for Envoy where the settings have addresses for them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

import grpc

from guard.channel import Link
from guard.config import Settings, SharedMemory
from guard.credentials import ends_of
from guard.wire.envoy import EnvoyServer
from guard.wire.health import Health
from guard.wire.infer import InferHandler
from guard.wire.listener import Listener, server_options
from guard.wire.methods import Methods
from guard.wire.passage import Passage
from guard.wire.ports import Auditor, Screener, Tracer, WireMetrics
from guard.wire.rest import RestServer
from guard.wire.shared_memory import Regions
from guard.wire.stream import StreamHandler
from guard.wire.tls import SECTION, ServerTls
from guard.wire.upstream import Upstream


class GuardServer:
    """Serves the v2 inference protocol in front of the guarded server, and screens what passes.

    `ready` says whether Guard can do its job; grpc.health.v1 reports it. Starting does not wait for it, nor for the
    guarded server.
    """

    def __init__(
        self,
        *,
        screener: Screener,
        settings: Settings,
        metrics: WireMetrics,
        ready: Callable[[], Awaitable[bool]],
        auditors: Sequence[Auditor] = (),
        tracer: Tracer | None = None,
        readiness_interval_s: float = 1.0,
    ) -> None:
        self._screener = screener
        self._settings = settings
        self._metrics = metrics
        self._auditors = auditors
        self._tracer = tracer
        self._health = Health(ready, poll_interval_s=readiness_interval_s)
        self._tls = None if settings.listen.tls is None else ServerTls(settings.listen.tls)
        self._link = Link(settings.upstream, quiet=False)
        self._watch_credentials()
        self._running: tuple[grpc.aio.Server, Passage, Upstream] | None = None
        self._streams: StreamHandler | None = None
        self._listener: Listener | None = None
        self._rest: RestServer | None = None
        self._envoy: EnvoyServer | None = None
        self.http_port = 0
        self.envoy_port = 0

    async def start(self) -> int:
        """Bind `listen.address` and serve. Returns the port, which the system chose if the address says port 0.

        A Unix socket has none: then it is 0. `http_port` is that of `listen.http_address`, and `envoy_port` that of
        `listen.envoy_address`.

        Raises:
            AddressUnusable: the address can't be bound.
        """
        server = grpc.aio.server(options=server_options(self._settings, self._settings.upstream.max_message_bytes))
        upstream = Upstream(self._settings.upstream, self._metrics, link=self._link)
        passage = Passage(self._screener, upstream, self._settings, self._metrics, self._auditors, tracer=self._tracer)
        try:
            await self._start_rest(passage, upstream)
            await self._start_envoy(passage)
            credentials = None if self._tls is None else self._tls.grpc_credentials()
            listener = Listener(server, self._settings.listen, credentials)
        except BaseException:
            await asyncio.gather(self._stop_rest(0.0), self._stop_envoy(0.0))
            await server.stop(None)
            await upstream.close(0.0)
            raise
        max_message_bytes = self._settings.upstream.max_message_bytes
        regions = Regions(max_message_bytes) if self._settings.shared_memory is SharedMemory.COPY else None
        model_infer = InferHandler(passage, max_message_bytes, regions).answer
        await self._health.start(server)
        self._streams = streams = StreamHandler(passage, upstream, self._metrics, max_message_bytes)
        methods = Methods(model_infer, streams.answer, upstream, self._metrics, max_message_bytes, regions=regions)
        server.add_generic_rpc_handlers((methods,))
        await server.start()
        self._running = server, passage, upstream
        self._listener = listener
        return listener.port

    async def stop(self, grace_s: float) -> None:
        """Report unready, take no new calls or messages, give what runs `grace_s` seconds, and close."""
        if self._running is None:
            return
        server, passage, upstream = self._running
        self._running = None
        ends_s = time.monotonic() + grace_s
        await self._health.stop()
        if self._streams is not None:
            self._streams.drain()
        await asyncio.gather(server.stop(grace_s), self._stop_rest(grace_s), self._stop_envoy(grace_s))
        if self._listener is not None:
            self._listener.close()
        await passage.close(max(0.0, ends_s - time.monotonic()))
        if self._envoy is not None:
            await self._envoy.close(max(0.0, ends_s - time.monotonic()))
        await upstream.close(max(0.0, ends_s - time.monotonic()))

    async def _start_rest(self, passage: Passage, upstream: Upstream) -> None:
        if (address := self._settings.listen.http_address) is not None:
            self._rest = RestServer(passage, upstream, self._settings, self._metrics)
            self.http_port = await self._rest.start(address)

    async def _stop_rest(self, grace_s: float) -> None:
        if self._rest is not None:
            await self._rest.stop(grace_s)

    async def _start_envoy(self, passage: Passage) -> None:
        if (address := self._settings.listen.envoy_address) is not None:
            settings, metrics = self._settings, self._metrics
            self._envoy = EnvoyServer(
                self._screener,
                settings,
                metrics,
                passage.room,
                self._link.metadata,
                auditors=self._auditors,
                tracer=self._tracer,
            )
            tls = settings.listen.tls
            credentials = None if tls is None else ServerTls(tls, quiet=True).grpc_credentials()
            self.envoy_port = await self._envoy.start(address, credentials)

    async def _stop_envoy(self, grace_s: float) -> None:
        if self._envoy is not None:
            await self._envoy.stop(grace_s)

    def _watch_credentials(self) -> None:
        """Export how it stands with the files that prove who Guard is."""
        if self._tls is not None:
            self._metrics.watch_credentials(SECTION, self._tls.files.stale, ends_of(self._tls.files))
        if self._link.tls is not None:
            self._metrics.watch_credentials("upstream.tls", self._link.tls.stale, ends_of(self._link.tls))
        if self._link.secret is not None:
            self._metrics.watch_credentials("upstream.restricted_protocol", self._link.secret.stale, {})
