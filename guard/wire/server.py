"""Guard's servers: gRPC, and HTTP where the settings have an address for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import grpc

from guard.channel import Link
from guard.config import Settings, SharedMemory
from guard.credentials import ends_of
from guard.wire.health import Health
from guard.wire.infer import InferHandler
from guard.wire.listener import Listener
from guard.wire.methods import Methods
from guard.wire.passage import Passage
from guard.wire.ports import Auditor, Screener, WireMetrics
from guard.wire.receive import transport_limit
from guard.wire.rest import RestServer
from guard.wire.shared_memory import Regions
from guard.wire.stream import StreamHandler
from guard.wire.tls import SECTION, ServerTls
from guard.wire.upstream import Upstream

_AS_IT_CAME = 0
"""Compressed messages stay so, and `receive` inflates them: gRPC would check their size once it had done it."""

_MS = 1000
_HANDSHAKE_S = 20
_KEEPALIVE_TIMEOUT_S = 20
_PING_INTERVAL_S = 10
"""Clients that ask more often whether Guard is there are cut off: three times too soon is a flood (gRPC's setting)."""


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
        audit: Auditor | None = None,
        readiness_interval_s: float = 1.0,
    ) -> None:
        self._screener = screener
        self._settings = settings
        self._metrics = metrics
        self._audit = audit
        self._health = Health(ready, poll_interval_s=readiness_interval_s)
        self._tls = None if settings.listen.tls is None else ServerTls(settings.listen.tls)
        self._link = Link(settings.upstream, quiet=False)
        self._watch_credentials()
        self._running: tuple[grpc.aio.Server, Passage, Upstream] | None = None
        self._streams: StreamHandler | None = None
        self._listener: Listener | None = None
        self._rest: RestServer | None = None
        self.http_port = 0

    async def start(self) -> int:
        """Bind `listen.address` and serve. Returns the port, which the system chose if the address says port 0.

        A Unix socket has none: then it is 0. `http_port` is that of `listen.http_address`.

        Raises:
            AddressUnusable: the address can't be bound.
        """
        server = grpc.aio.server(options=_server_options(self._settings))
        upstream = Upstream(self._settings.upstream, self._metrics, link=self._link)
        passage = Passage(self._screener, upstream, self._settings, self._metrics, self._audit)
        try:
            await self._start_rest(passage, upstream)
            credentials = None if self._tls is None else self._tls.grpc_credentials()
            listener = Listener(server, self._settings.listen, credentials)
        except BaseException:
            await self._stop_rest(0.0)
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
        await asyncio.gather(server.stop(grace_s), self._stop_rest(grace_s))
        if self._listener is not None:
            self._listener.close()
        await passage.close(max(0.0, ends_s - time.monotonic()))
        await upstream.close(max(0.0, ends_s - time.monotonic()))

    async def _start_rest(self, passage: Passage, upstream: Upstream) -> None:
        if (address := self._settings.listen.http_address) is not None:
            self._rest = RestServer(passage, upstream, self._settings, self._metrics)
            self.http_port = await self._rest.start(address)

    async def _stop_rest(self, grace_s: float) -> None:
        if self._rest is not None:
            await self._rest.stop(grace_s)

    def _watch_credentials(self) -> None:
        """Export how it stands with the files that prove who Guard is."""
        if self._tls is not None:
            self._metrics.watch_credentials(SECTION, self._tls.files.stale, ends_of(self._tls.files))
        if self._link.tls is not None:
            self._metrics.watch_credentials("upstream.tls", self._link.tls.stale, ends_of(self._link.tls))
        if self._link.secret is not None:
            self._metrics.watch_credentials("upstream.restricted_protocol", self._link.secret.stale, {})


def _server_options(settings: Settings) -> list[tuple[str, int]]:
    answer_ms = round(min(settings.listen.keepalive_s, _KEEPALIVE_TIMEOUT_S) * _MS)
    return [
        ("grpc.max_receive_message_length", transport_limit(settings.upstream.max_message_bytes)),
        ("grpc.per_message_decompression", _AS_IT_CAME),
        ("grpc.so_reuseport", 0),  # or a second server on a busy port would silently take half of its calls
        ("grpc.max_concurrent_streams", settings.limits.max_concurrent_streams),
        ("grpc.server_handshake_timeout_ms", _HANDSHAKE_S * _MS),
        ("grpc.keepalive_time_ms", round(settings.listen.keepalive_s * _MS)),
        ("grpc.keepalive_timeout_ms", answer_ms),
        ("grpc.http2.ping_timeout_ms", answer_ms),  # gRPC 1.81 goes by this one
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", _PING_INTERVAL_S * _MS),
    ]
