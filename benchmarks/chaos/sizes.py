"""Messages over the limit, and small ones that inflate to more than it."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import Callable

from benchmarks.chaos.house import LIMIT_BYTES, House
from benchmarks.chaos.load import Answers, client
from benchmarks.chaos.table import Check

_MB = 1024 * 1024
_ROOM_MB = 2 * LIMIT_BYTES / _MB
_INFLATED = 64


async def oversized(house: House, rounds: float) -> list[Check]:
    """Send each kind so many times, one after the other, and four at once."""
    guard = house.common()
    async with client(house.body, guard.address) as clients:
        await clients.for_a_time(50, 1.0)
    kinds = {
        "a byte over the limit": b"\0" * (LIMIT_BYTES + 1),
        "twice the limit": b"\0" * (2 * LIMIT_BYTES),
        "eight times the limit": b"\0" * (8 * LIMIT_BYTES),
        "a gzip bomb": _bomb(gzip.compress),
        "a deflate bomb": _bomb(zlib.compress),
    }
    checks, others = [], 0
    for name, message in kinds.items():
        before_mb = guard.rss_mb()
        guard.forget_peak()
        answers = Answers()
        async with client(message, guard.address) as clients:
            for _ in range(round(rounds)):
                await clients.ask(answers)
            rise_mb = guard.rss_mb(peak=True) - before_mb
            await asyncio.gather(*(clients.ask(answers) for _ in range(4)))
        others += len(answers.codes) - answers.codes.count("RESOURCE_EXHAUSTED")
        checks.append(Check(f"RSS rise, {name}", rise_mb, "<=", _ROOM_MB, "MB"))
    return [Check("answers other than RESOURCE_EXHAUSTED", others, "=", 0), *checks]


def _bomb(compress: Callable[[bytes], bytes]) -> bytes:
    return compress(bytes(_INFLATED * LIMIT_BYTES))
