"""A long run of clients that come and go and models that are swapped: memory and files stay flat, or it is said."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from dataclasses import dataclass, field

import numpy as np

from benchmarks.chaos.house import Guard, House, Planted
from benchmarks.chaos.load import Answers, client
from benchmarks.chaos.table import Check

_RATE = 30
_CLIENT_S = 2.0
_SWAP_S = 20.0
_SAMPLE_S = 0.5
_WARM_UP = 0.3
_SLOPE = 5.0
_MORE_FDS = 8
_LEAKING = 0.1
_LEAKING_AT_LEAST_S, _LEAKING_AT_MOST_S = 4.0, 60.0


@dataclass(slots=True)
class Watched:
    """Resident memory and open files over time."""

    at_s: list[float] = field(default_factory=list)
    rss_mb: list[float] = field(default_factory=list)
    fds: list[int] = field(default_factory=list)

    def look(self, guard: Guard) -> None:
        """Note how it is now."""
        self.at_s.append(time.perf_counter())
        self.rss_mb.append(guard.rss_mb())
        self.fds.append(guard.fds())

    def slope_mb_per_h(self) -> float:
        """How fast memory grows after the warm-up, by least squares."""
        warm = round(len(self.at_s) * _WARM_UP)
        return float(np.polyfit(self.at_s[warm:], self.rss_mb[warm:], 1)[0]) * 3600

    def more_fds(self) -> int:
        """Files open at the end, in the middle of what is usual then, to those after the warm-up."""
        warm, part = round(len(self.fds) * _WARM_UP), max(1, len(self.fds) // 10)
        return round(float(np.median(self.fds[-part:]) - np.median(self.fds[warm : warm + part])))


async def soak(house: House, seconds: float) -> list[Check]:
    """Run so long, and then a tenth of it with a leak, which must show."""
    with house.planted("soaked") as guard:
        watched, answers = await _run(house, guard, seconds)
        guard.plant("leak")
        leaking, _ = await _run(house, guard, min(max(_LEAKING * seconds, _LEAKING_AT_LEAST_S), _LEAKING_AT_MOST_S))
        swaps = guard.counted(r'guard_config_reloads_total\{outcome="swapped"\}')
    return [
        Check("requests lost", answers.lost(), "=", 0),
        Check("requests answered", answers.codes.count("OK"), ">", 0),
        Check("models swapped", swaps, ">", 0),
        Check("RSS slope after the warm-up", watched.slope_mb_per_h(), "<=", _SLOPE, "MB/h", timed=True),
        Check("more files and connections", watched.more_fds(), "<=", _MORE_FDS, timed=True),
        Check("RSS slope with a planted leak", leaking.slope_mb_per_h(), ">", 100 * _SLOPE, "MB/h"),
    ]


async def _run(house: House, guard: Planted, seconds: float) -> tuple[Watched, Answers]:
    watched, answers, ends_s = Watched(), Answers(), time.perf_counter() + seconds

    async def clients_come_and_go(rate: float) -> None:
        while time.perf_counter() < ends_s:
            async with client(house.body, guard.address) as clients:
                found = await clients.for_a_time(rate, _CLIENT_S, timeout_s=30.0)
            answers.codes += found.codes

    async def models_are_swapped() -> None:
        number = 0
        while time.perf_counter() < ends_s:
            number += 1
            guard.change_rate(0.02 if number % 2 else 0.05)
            os.kill(guard.pid, signal.SIGHUP)
            await asyncio.sleep(min(_SWAP_S, seconds / 2))

    async def somebody_looks() -> None:
        while time.perf_counter() < ends_s:
            watched.look(guard)
            await asyncio.sleep(_SAMPLE_S)

    await asyncio.gather(*(clients_come_and_go(_RATE / 3) for _ in range(3)), models_are_swapped(), somebody_looks())
    return watched, answers
