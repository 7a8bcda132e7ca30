"""A long run of clients and models that come and go: memory and files stay flat, or it is said.

Clients come by unary calls, on streams and by REST; every request is recorded.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from benchmarks.chaos.house import Guard, House, Planted
from benchmarks.chaos.load import Answers, Client, client
from benchmarks.chaos.others import Connect, rest, streaming
from benchmarks.chaos.planted import LEAK_BYTES
from benchmarks.chaos.table import Check

_RATE = 30
_CLIENT_S = 2.0
_SWAP_S, _SWAPPED_S = 20.0, 60.0
_RATES = (0.02, 0.05)
_LOG_BYTES = 16 * 1024 * 1024
_SAMPLE_S = 0.5
_WARM_UP = 0.3
_SLOPE = 5.0
_MORE_FDS = 8
_LEAKING = 0.1
_PLANTED = _RATE * LEAK_BYTES / 2**20 * 3600
"""MB/h, of which models that come and go leave no more than a part in a short run."""
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


@dataclass(slots=True)
class Soaked:
    """What came of a run: what clients heard by each way, and how often the second model came, and went."""

    watched: Watched = field(default_factory=Watched)
    heard: dict[str, Answers] = field(default_factory=dict)
    came: int = 0
    went: int = 0

    def lost(self) -> int:
        """How many were not answered well."""
        return sum(answers.lost() for answers in self.heard.values())


async def soak(house: House, seconds: float) -> list[Check]:
    """Run so long, and then a tenth of it with a leak, which must show."""
    bounds = {"volume_bytes": _LOG_BYTES, "segment_bytes": _LOG_BYTES // 16}
    with house.planted("soaked", audit=house.audit(house.folder / "soaked") | bounds) as guard:
        found = await _run(house, guard, seconds)
        guard.plant("leak")
        leaking = await _run(house, guard, min(max(_LEAKING * seconds, _LEAKING_AT_LEAST_S), _LEAKING_AT_MOST_S))
        swaps = guard.counted(r'guard_config_reloads_total\{outcome="swapped"\}')
        recorded = guard.counted(r'guard_audit_events_total\{outcome="written",sink="log"\}')
    watched = found.watched
    return [
        Check("requests lost", found.lost(), "=", 0),
        *(Check(f"answered {way}", heard.codes.count("OK"), ">", 0) for way, heard in found.heard.items()),
        Check("models swapped", swaps, ">", 0),
        Check("times that a second model came", found.came, ">", 0),
        Check("and went", found.went, ">", 0),
        Check("requests recorded", recorded, ">", 0),
        Check("RSS slope after the warm-up", watched.slope_mb_per_h(), "<=", _SLOPE, "MB/h", timed=True),
        Check("more files and connections", watched.more_fds(), "<=", _MORE_FDS, timed=True),
        Check("RSS slope with a planted leak", leaking.watched.slope_mb_per_h(), ">", _PLANTED / 2, "MB/h"),
    ]


async def _run(house: House, guard: Planted, seconds: float) -> Soaked:
    ways: dict[str, Connect] = {
        "by unary calls": partial(client, house.body, guard.address),
        "on streams": partial(streaming, house.body, guard.address),
        "by REST": partial(rest, house.rest_body, guard.http_address),
    }
    found, ends_s = Soaked(heard={way: Answers() for way in ways}), time.perf_counter() + seconds

    async def clients_come_and_go(way: str) -> None:
        while time.perf_counter() < ends_s:
            async with ways[way]() as clients:
                heard = await clients.for_a_time(_RATE / len(ways), _CLIENT_S, timeout_s=30.0)
            found.heard[way].codes += heard.codes

    async def models_come_and_go() -> None:
        second, rate = False, _RATES[0]
        async with client(house.second_body, guard.address) as clients:
            while time.perf_counter() < ends_s or second:
                second, rate = not second, _RATES[rate == _RATES[0]]
                guard.change(rate, second=second)
                os.kill(guard.pid, signal.SIGHUP)
                if await _says(clients, "OK" if second else "PERMISSION_DENIED"):
                    found.came, found.went = found.came + second, found.went + (not second)
                await asyncio.sleep(min(_SWAP_S, seconds / 4))

    async def somebody_looks() -> None:
        while time.perf_counter() < ends_s:
            found.watched.look(guard)
            await asyncio.sleep(_SAMPLE_S)

    await asyncio.gather(*map(clients_come_and_go, ways), models_come_and_go(), somebody_looks())
    return found


async def _says(clients: Client, code: str) -> bool:
    """Whether a request is answered so, soon."""
    ends_s = time.perf_counter() + _SWAPPED_S
    while time.perf_counter() < ends_s:
        if await clients.ask(Answers(), timeout_s=30.0) == code:
            return True
        await asyncio.sleep(_SAMPLE_S)
    return False
