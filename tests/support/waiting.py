"""Waiting for what is about to happen."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable
from typing import Any

PATIENCE_S = 60.0
"""For what is about to happen: a machine that does much else may stand still for seconds."""


async def until(holds: Callable[[], Any], *, within_s: float = PATIENCE_S) -> None:
    """Wait until something holds, be it asked at once or awaited.

    Raises:
        TimeoutError: it does not in time.
    """
    async with asyncio.timeout(within_s):
        while not (await held if inspect.isawaitable(held := holds()) else held):  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.02)


def wait_for(holds: Callable[[], object], *, within_s: float = PATIENCE_S) -> None:
    """Wait until something holds, where no loop runs.

    Raises:
        AssertionError: it did not in time.
    """
    ends_s = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < ends_s, holds
        time.sleep(0.02)
