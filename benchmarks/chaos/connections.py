"""Clients that mean harm, on connections of their own, and how the others fare beside them."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TypeAlias

from benchmarks.chaos.attacks import NOTED, PING, PREFACE, SETTINGS, frame, opened
from benchmarks.chaos.house import Guard, House
from benchmarks.chaos.load import Answers, Client, client, quantile_ms
from benchmarks.chaos.table import Check

Disturbance: TypeAlias = Callable[[], AbstractAsyncContextManager[None]]
"""A time in which others are there, once they are."""
_Ask: TypeAlias = Callable[[], bool | Awaitable[bool]]

_RATE = 50
_TURNS, _LONG_S = 3, 5.0
"""So many quiet and disturbed times, where they are long."""

_AT_MOST = 1.10
_MORE_CPU = 0.5
_MORE_FDS = 20
_LEFT_S = 60.0
_HANDSHAKE_S = 25.0
_INFLIGHT = "guard_inflight_requests "
_GIVEN_UP = r'guard_requests_total\{decision="none"'


async def half_open(house: House, seconds: float) -> list[Check]:
    """A thousand connections that never become any, and two beside them that wait until Guard ends them."""
    guard, noted = house.common(), Counter[str]()
    ending = asyncio.create_task(_ended_after(guard.address, b"", PREFACE))
    checks = await _compared(house, guard, seconds, _program(noted, "attacks", "half-open", guard.address, "1000"))
    ended_s = await ending
    return [
        *checks,
        Check("connections that were held", noted["connections"], ">=", 1000),
        Check("silent connections were ended", int(ended_s < float("inf")), "=", 1),
        Check("after", ended_s, "<=", _HANDSHAKE_S, "s", timed=True),
    ]


async def loris(house: House, seconds: float) -> list[Check]:
    """A thousand requests, a byte a second: Guard has them all, and lets go of them with their connections."""
    guard, noted = house.common(), Counter[str]()
    most = 0.0

    async def look() -> bool:
        nonlocal most
        most = max(most, await asyncio.to_thread(guard.counted, _INFLIGHT))
        return most >= 1000  # noqa: PLR2004 - as above

    attacked = _program(noted, "attacks", "loris", guard.address, "1000", until=look)
    checks = await _compared(house, guard, seconds, attacked)
    await _until(lambda: _nothing_in_flight(guard))
    left = await asyncio.to_thread(guard.counted, _INFLIGHT)
    return [*checks, Check("most in flight", most, ">=", 1000), Check("in flight afterwards", left, "=", 0)]


async def resets(house: House, seconds: float) -> list[Check]:
    """A thousand requests a second that are taken back."""
    guard, noted = house.common(), Counter[str]()
    before = guard.counted(_GIVEN_UP)

    async def begun_with() -> bool:
        return await asyncio.to_thread(guard.counted, _GIVEN_UP) > before

    attacked = _program(noted, "attacks", "reset", guard.address, "1000", until=begun_with)
    checks = await _compared(house, guard, seconds, attacked)
    await _until(lambda: _nothing_in_flight(guard))
    left = await asyncio.to_thread(guard.counted, _INFLIGHT)
    return [
        *checks,
        Check("requests taken back", noted["requests"], ">", 0),
        Check("of these Guard had begun with", guard.counted(_GIVEN_UP) - before, ">", 0),
        Check("in flight afterwards", left, "=", 0),
    ]


async def pings(house: House, seconds: float) -> list[Check]:
    """Two thousand pings a second, of which Guard hears few on each connection."""
    guard, noted = house.common(), Counter[str]()
    checks = await _compared(house, guard, seconds, _program(noted, "attacks", "ping", guard.address, "2000"))
    calmed = noted["calmed"] or await _calmed(guard.address)  # in a moment of a busy machine it may be none
    return [*checks, Check("connections ended with ENHANCE_YOUR_CALM", calmed, ">", 0)]


async def scraped(house: House, seconds: float) -> list[Check]:
    """Fifty who read the metrics each second."""
    guard, noted = house.common(), Counter[str]()
    scrapers = _program(noted, "scrapers", f"127.0.0.1:{guard.ports[-1]}", "50")
    return [*await _compared(house, guard, seconds, scrapers), Check("pages read", noted["read"], ">=", 50)]


def _program(noted: Counter[str], name: str, *arguments: str, until: _Ask | None = None) -> Disturbance:
    """What disturbs, as a process of its own, for as long as a context lasts, which begins once it is under way.

    It begins no sooner than `until` holds. What the process noted is added at the end.
    """

    @asynccontextmanager
    async def running() -> AsyncIterator[None]:
        command = [sys.executable, "-m", f"benchmarks.chaos.{name}", *arguments]
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
        assert process.stdin is not None  # noqa: S101 - for the type checker: it is a pipe
        assert process.stdout is not None  # noqa: S101 - as above
        try:
            await process.stdout.readline()
            if until is not None:
                await _until(until)
            yield
            if process.returncode is not None:
                raise RuntimeError(f"{name} ended by itself, with {process.returncode}")
        finally:
            process.stdin.close()
            said = await process.stdout.read()
            await process.wait()
        noted.update(json.loads(said))

    return running


async def _calmed(address: str) -> int:
    """How many connections Guard ends so, of one on which nothing but pings is sent."""
    line, before = await opened(address, PREFACE + frame(SETTINGS)), NOTED.calmed

    def over() -> bool:
        line.writer.write(frame(PING, bytes(8)))
        return line.over

    await _until(over)
    return NOTED.calmed - before


async def _ended_after(address: str, *said: bytes) -> float:
    """Seconds until Guard has ended connections on which no more is said than this; infinite if that takes long."""
    lines, began_s = [await opened(address, each) for each in said], time.perf_counter()
    await _until(lambda: all(line.over for line in lines))
    return time.perf_counter() - began_s if all(line.over for line in lines) else float("inf")


async def _until(holds: _Ask) -> None:
    """Wait until something holds, or for a time."""
    ends_s = time.perf_counter() + _LEFT_S
    while time.perf_counter() < ends_s:
        held = holds()
        if held if isinstance(held, bool) else await held:
            return
        await asyncio.sleep(0.1)


async def _nothing_in_flight(guard: Guard) -> bool:
    return not await asyncio.to_thread(guard.counted, _INFLIGHT)


async def _compared(house: House, guard: Guard, seconds: float, attacked: Disturbance) -> list[Check]:
    """Quiet and disturbed times in turn, of so many seconds each."""
    fds, quiet, disturbed, cpu = guard.fds(), Answers(), Answers(), {True: 0.0, False: 0.0}
    turns = _TURNS if seconds >= _LONG_S else 1
    async with client(house.body, guard.address) as clients:
        await clients.for_a_time(_RATE, 0.5)
        for _ in range(turns):
            cpu[False] += await _measured(clients, guard, seconds, quiet)
            async with attacked():
                cpu[True] += await _measured(clients, guard, seconds, disturbed)
        left = await _left(guard, fds)
    p99 = [quantile_ms(answers.took_s, 0.99) for answers in (quiet, disturbed)]
    p50 = [quantile_ms(answers.took_s, 0.50) for answers in (quiet, disturbed)]
    return [
        Check("others' requests lost", disturbed.lost(), "=", 0),
        Check(f"others' p99, to {p99[0]:.1f} ms in quiet times", p99[1] / p99[0], "<=", _AT_MOST, "times", timed=True),
        Check(f"their p50, to {p50[0]:.1f} ms", p50[1] / p50[0], "<=", _AT_MOST, "times", timed=True),
        Check("more CPU", (cpu[True] - cpu[False]) / (turns * seconds), "<=", _MORE_CPU, "cores", timed=True),
        Check("connections and files left behind", left, "<=", _MORE_FDS),
    ]


async def _measured(clients: Client, guard: Guard, seconds: float, answers: Answers) -> float:
    before_s = guard.cpu_s()
    found = await clients.for_a_time(_RATE, seconds, timeout_s=30.0)
    answers.took_s += found.took_s
    answers.at_s += found.at_s
    answers.codes += found.codes
    return guard.cpu_s() - before_s


async def _left(guard: Guard, before: int) -> int:
    """What stays open after the others have left, once that is little."""
    await _until(lambda: guard.fds() - before <= _MORE_FDS)
    return guard.fds() - before
