"""Clients that mean harm, on connections of their own, and how the others fare beside them."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeAlias

from benchmarks.chaos.house import Guard, House
from benchmarks.chaos.load import Answers, Client, client, quantile_ms
from benchmarks.chaos.table import Check

Disturbance: TypeAlias = Callable[[], AbstractAsyncContextManager[None]]

_RATE = 50
_TURNS, _LONG_S = 3, 5.0
"""So many quiet and disturbed times, where they are long."""

_AT_MOST = 1.10
_MORE_CPU = 0.5
_MORE_FDS = 20
_LEFT_S = 40.0


def beside(kind: str, number: int) -> Callable[[House, float], Coroutine[Any, Any, list[Check]]]:
    """A row: an attack of `benchmarks.chaos.attacks`, as strong as `number` says."""

    async def run(house: House, seconds: float) -> list[Check]:
        guard = house.common()
        return await _compared(house, guard, seconds, _program("attacks", kind, guard.address, str(number)))

    return run


async def scraped(house: House, seconds: float) -> list[Check]:
    """Fifty who read the metrics each second."""
    guard = house.common()
    return await _compared(house, guard, seconds, _program("scrapers", f"127.0.0.1:{guard.ports[-1]}", "50"))


def _program(name: str, *arguments: str) -> Disturbance:
    """What disturbs, as a process of its own, for as long as a context lasts."""

    @asynccontextmanager
    async def running() -> AsyncIterator[None]:
        command = [sys.executable, "-m", f"benchmarks.chaos.{name}", *arguments]
        process = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.PIPE)
        try:
            await asyncio.sleep(1.0)
            yield
            if process.returncode is not None:
                raise RuntimeError(f"{name} ended by itself, with {process.returncode}")
        finally:
            assert process.stdin is not None  # noqa: S101 - for the type checker: it is a pipe
            process.stdin.close()
            await process.wait()

    return running


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
    ends_s = time.perf_counter() + _LEFT_S
    while (left := guard.fds() - before) > _MORE_FDS and time.perf_counter() < ends_s:  # noqa: ASYNC110 - nothing tells
        await asyncio.sleep(0.2)
    return left
