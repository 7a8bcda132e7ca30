"""Waiting for what is about to happen."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any


async def until(holds: Callable[[], Any], *, within_s: float = 5.0) -> None:
    """Wait until something holds, be it asked at once or awaited.

    Raises:
        TimeoutError: it does not in time.
    """
    async with asyncio.timeout(within_s):
        while not (await held if inspect.isawaitable(held := holds()) else held):  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.02)
