"""A rolling restart, as of a deployment of two: one stops and starts again, then the other, while clients go on."""

from __future__ import annotations

import asyncio
import time

from benchmarks.chaos.house import Guard, House
from benchmarks.chaos.load import Answers, client
from benchmarks.chaos.table import Check

_RATE = 50
_DRAIN_S = 4.0
_PATIENCE_S = 120.0
_SOON_S = 240.0


async def rolling_restart(house: House, restarts: float) -> list[Check]:
    """Restart two Guards in turn, so many restarts together."""
    guards = [house.guard(name, listen={"drain_delay_s": _DRAIN_S}) for name in ("first", "second")]
    codes = set()
    try:
        await asyncio.gather(*(asyncio.to_thread(guard.start) for guard in guards))
        async with client(house.body, *(guard.address for guard in guards)) as clients:
            while await clients.ask(Answers()) != "OK":  # noqa: ASYNC110 - grpc.health.v1 follows readiness in a second
                await asyncio.sleep(0.1)
            async with clients.traffic(_RATE, timeout_s=_PATIENCE_S) as answers:
                for guard in guards:
                    await _until_used(guard)
                for number in range(round(restarts)):
                    guard = guards[number % 2]
                    codes.add(await asyncio.to_thread(guard.drain_and_stop))
                    await asyncio.to_thread(guard.start)
                    await _until_used(guard)
    finally:
        for guard in guards:
            await asyncio.to_thread(guard.stop)
    return [
        Check(f"requests lost{answers.worst()}", answers.lost(), "=", 0),
        Check("requests sent", len(answers.codes), ">=", _RATE * restarts),
        Check("exit codes other than 0", len(codes - {0}), "=", 0),
    ]


async def _until_used(guard: Guard) -> None:
    """Wait until clients have noticed that a Guard is there: the other one may go then, and not before."""
    ends_s = time.perf_counter() + _SOON_S
    while not await asyncio.to_thread(guard.counted, "guard_requests_total") and time.perf_counter() < ends_s:  # noqa: ASYNC110 - another process
        await asyncio.sleep(0.1)
