"""Half of the clients leave before they are answered."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from benchmarks.chaos.hearing import Door
from benchmarks.chaos.house import PAYLOAD, Guard, House
from benchmarks.chaos.load import Answers, Client, client, quantile_ms
from benchmarks.chaos.table import Check
from guard.embedded import EmbeddedServer

_AT_ONCE = 32
_WARM_UP = 0.2
_RISE_MB = 20
_QUIET_S = 60.0
_TRIES = 10
_ENOUGH = 50
"""So many cancellations while the server has the request show it where one in ten is lost: all but once in 200 runs."""


async def cancelled(house: House, requests: float) -> list[Check]:
    """So many requests to Triton, which hears of no cancellation, and a fifth as many to a server that does."""
    pid = house.triton_pid()
    shielded = await _leaving(house, house.common(), round(requests))
    async with _hearing(house) as (guard, door):
        for _ in range(_TRIES):
            heard = await _leaving(house, guard, round(requests / 5))
            if door.held >= _ENOUGH:
                break
        unheard = await door.unheard()
    died = int(not await asyncio.to_thread(_runs, pid))
    return [
        *shielded,
        Check("Triton died", died, "=", 0),
        *(Check(f"{each.what}, cancellations passed on", each.measured, each.sign, each.limit) for each in heard),
        Check("requests cancelled while that server had them", door.held, ">=", _ENOUGH),
        Check("of these cancellations did not reach it", unheard, "=", 0),
    ]


def _runs(pid: int) -> bool:
    """Whether a process lives; a dead one that nobody waited for has no program."""
    return Path(f"/proc/{pid}/exe").exists()


@asynccontextmanager
async def _hearing(house: House) -> AsyncIterator[tuple[Guard, Door]]:
    """A Guard before the embedded server, which is known to survive cancellations, and the door between them."""
    server = EmbeddedServer({PAYLOAD.model: house.model})
    door = Door(f"127.0.0.1:{await server.start()}")
    guard = house.guard("hearing", upstream={"address": door.address})
    try:
        await door.start()
        await asyncio.to_thread(guard.start)
        yield guard, door
    finally:
        await asyncio.to_thread(guard.stop)
        await door.stop()
        await server.stop(1.0)


async def _leaving(house: House, guard: Guard, requests: int) -> list[Check]:
    async with client(house.body, guard.address) as clients:
        usual = await clients.in_turn(_AT_ONCE, 1.0)
        patience_s = 2 * quantile_ms(usual.took_s, 0.5) / 1000
        answers = Answers()
        await _send(clients, round(requests * _WARM_UP), patience_s, answers)
        await _quiet(guard)
        before_mb, fds = guard.rss_mb(), guard.fds()
        await _send(clients, requests - round(requests * _WARM_UP), patience_s, answers)
        inflight = await _quiet(guard)
    return [
        Check("requests lost of those that stayed", answers.lost(), "=", 0),
        Check("in flight at the end", inflight, "=", 0),
        Check("RSS rise", guard.rss_mb() - before_mb, "<=", _RISE_MB, "MB"),
        Check("more files", guard.fds() - fds, "<=", 2),
    ]


async def _send(clients: Client, requests: int, patience_s: float, answers: Answers) -> None:
    left, rng = iter(range(requests)), random.Random(0)  # noqa: S311 - who leaves, no secrets

    async def one() -> None:
        for number in left:
            if number % 2:
                await clients.ask_and_leave(rng.random() * patience_s)
            else:
                await clients.ask(answers)

    await asyncio.gather(*(one() for _ in range(_AT_ONCE)))


async def _quiet(guard: Guard) -> float:
    """What is in flight once that is nothing, or after a time."""
    ends_s = time.perf_counter() + _QUIET_S
    while True:
        inflight = await asyncio.to_thread(guard.counted, "guard_inflight_requests ")
        if not inflight or time.perf_counter() > ends_s:
            return inflight
        await asyncio.sleep(0.1)
