"""Guard's gRPC server."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

import grpc

from guard.config import Settings
from guard.errors import ConfigError
from guard.wire.health import Health
from guard.wire.infer import InferHandler
from guard.wire.methods import Methods
from guard.wire.ports import Screener, WireMetrics
from guard.wire.upstream import Upstream

_IDENTITY_ONLY = 1
"""gRPC checks the size of a message after it has decompressed all of it, so compressed requests are refused."""


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
            ConfigError: the address can't be bound.
        """
        server = grpc.aio.server(options=_server_options(self._settings))
        port = await _bind(server, self._settings.listen.address)
        upstream = Upstream(self._settings.upstream, self._metrics)
        model_infer = InferHandler(self._screener, upstream, self._settings, self._metrics).answer
        await self._health.start(server)
        server.add_generic_rpc_handlers((Methods(model_infer, upstream, self._metrics),))
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
        ("grpc.max_receive_message_length", settings.upstream.max_message_bytes),
        ("grpc.compression_enabled_algorithms_bitset", _IDENTITY_ONLY),
        ("grpc.so_reuseport", 0),  # or a second server on a busy port would silently take half of its calls
    ]


async def _bind(server: grpc.aio.Server, address: str) -> int:
    try:
        return server.add_insecure_port(address)
    except RuntimeError as error:
        await server.stop(None)
        raise ConfigError(
            f"guard can't listen on {address}: the address is in use or not one of this machine; "
            "stop what uses it, or set listen.address to another"
        ) from error
