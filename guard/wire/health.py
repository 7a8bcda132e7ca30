"""grpc.health.v1, for load balancers and probes that speak gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import grpc
import structlog
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health import aio  # type: ignore[attr-defined]  # not in the stubs
from grpc_health.v1.health_pb2 import HealthCheckResponse

from guard.wire.methods import SERVICE

_READY_TIMEOUT_S = 5.0

_log = structlog.get_logger(__name__)


class Health:
    """Reports SERVING for as long as `ready` says so, which is asked every `poll_interval_s` seconds."""

    def __init__(self, ready: Callable[[], Awaitable[bool]], *, poll_interval_s: float) -> None:
        self._ready = ready
        self._poll_interval_s = poll_interval_s
        self._servicer = aio.HealthServicer()
        self._poll: asyncio.Task[None] | None = None

    async def start(self, server: grpc.aio.Server) -> None:
        """Serve on `server`, as NOT_SERVING until `ready` was asked; it is asked in the background."""
        await self._set(ready=False)
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)
        self._poll = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """Report NOT_SERVING from now on."""
        if self._poll is not None:
            self._poll.cancel()
            await asyncio.wait({self._poll})
        await self._servicer.enter_graceful_shutdown()

    async def _watch(self) -> None:
        while True:
            await self._set(ready=await self._ask())
            await asyncio.sleep(self._poll_interval_s)

    async def _ask(self) -> bool:
        try:
            async with asyncio.timeout(_READY_TIMEOUT_S):
                return await self._ready()
        except Exception:  # noqa: BLE001 - whatever is wrong, it isn't ready
            _log.warning("readiness check failed", exc_info=True)
            return False

    async def _set(self, *, ready: bool) -> None:
        status = HealthCheckResponse.SERVING if ready else HealthCheckResponse.NOT_SERVING
        for service in ("", SERVICE):
            await self._servicer.set(service, status)
