"""Runs a sidecar, from start to stop."""

from __future__ import annotations

import asyncio
import gc
import resource
from collections.abc import Callable

from guard.app.reload import Reload
from guard.app.sidecar import Sidecar
from guard.config import Settings


async def serve(
    settings: Settings,
    stop: asyncio.Event,
    started: Callable[[Sidecar], None],
    reload: Reload | None = None,
    drain: asyncio.Event | None = None,
) -> None:
    """Run a sidecar until `stop` is set; `started` is called when its ports are open. `reload` keeps its policy new.

    Once `drain` is set it takes no more requests, and goes on showing metrics and health.
    """
    sidecar = Sidecar(settings)
    _allow_connections()
    await sidecar.start()
    gc.collect()
    gc.freeze()  # what was loaded so far stays: a collection that walks through it would hold up requests
    reloading = None if reload is None else asyncio.create_task(reload.run(sidecar))
    draining = None if drain is None else asyncio.create_task(_drain(sidecar, drain))
    try:
        started(sidecar)
        await stop.wait()
    finally:
        if reloading is not None:
            reloading.cancel()
            await asyncio.wait({reloading})
        if draining is not None and drain is not None:
            sidecar.hurry()
            if not drain.is_set():
                draining.cancel()
            await asyncio.wait({draining})
        await sidecar.stop()


async def _drain(sidecar: Sidecar, drain: asyncio.Event) -> None:
    await drain.wait()
    await sidecar.drain()


def _allow_connections() -> None:
    """Take as many files as the system allows: often 1024 are usual and many more allowed, and each client is one."""
    _, allowed = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, allowed))
