"""Guard's gRPC server."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

import grpc

from guard.config import Settings
from guard.errors import AddressUnusable
from guard.wire.health import Health
from guard.wire.infer import InferHandler
from guard.wire.methods import Methods
from guard.wire.ports import Screener, WireMetrics
from guard.wire.receive import transport_limit
from guard.wire.upstream import Upstream

_AS_IT_CAME = 0
"""Compressed messages stay so, and are refused by `receive`: gRPC would check their size once it had inflated them."""


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
        readiness_interval_s: float = 1.0,
    ) -> None:
        self._screener = screener
        self._settings = settings
        self._metrics = metrics
        self._health = Health(ready, poll_interval_s=readiness_interval_s)
        self._running: tuple[grpc.aio.Server, Upstream] | None = None

    async def start(self) -> int:
        """Bind `listen.address` and serve. Returns the port, which the system chose if the address says port 0.

        Raises:
            AddressUnusable: the address can't be bound.
        """
        server = grpc.aio.server(options=_server_options(self._settings))
        port = await _bind(server, self._settings.listen.address)
        upstream = Upstream(self._settings.upstream, self._metrics)
        model_infer = InferHandler(self._screener, upstream, self._settings, self._metrics).answer
        await self._health.start(server)
        max_message_bytes = self._settings.upstream.max_message_bytes
        server.add_generic_rpc_handlers((Methods(model_infer, upstream, self._metrics, max_message_bytes),))
        await server.start()
        self._running = server, upstream
        return port

    async def stop(self, grace_s: float) -> None:
        """Report unready, take no new calls, give the running ones `grace_s` seconds, and close."""
        if self._running is None:
            return
        server, upstream = self._running
        self._running = None
        ends_s = time.monotonic() + grace_s
        await self._health.stop()
        await server.stop(grace_s)
        await upstream.close(max(0.0, ends_s - time.monotonic()))


def _server_options(settings: Settings) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", transport_limit(settings.upstream.max_message_bytes)),
        ("grpc.per_message_decompression", _AS_IT_CAME),
        ("grpc.so_reuseport", 0),  # or a second server on a busy port would silently take half of its calls
    ]


async def _bind(server: grpc.aio.Server, address: str) -> int:
    try:
        return server.add_insecure_port(address)
    except RuntimeError as error:
        await server.stop(None)
        why = "the address is in use or not one of this machine"
        raise AddressUnusable(address, "listen.address", why) from error
