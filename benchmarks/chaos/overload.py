"""Ten times as many requests as can be screened: what becomes of those that are, of the others, and afterwards."""

from __future__ import annotations

import asyncio
import time

from benchmarks.chaos.heavy import heavy_body
from benchmarks.chaos.house import Guard, House
from benchmarks.chaos.load import Answers, Client, answers_well, client, quantile_ms
from benchmarks.chaos.table import Check

_TIMES = 10
_AT_ONCE = 16
_MEASURING_S = 10.0
_REFUSED_MS = 50
_GOODPUT = 0.8
_NORMAL_S = 30.0
_LIMIT_MB = 64
_HALF = 0.5
_LATE = 0.01
"""Of requests: let in by how long others took, and then it takes longer than the policy allows."""


async def overload(house: House, seconds: float) -> list[Check]:
    """Measure the peak, then send ten times as much for so long, then half of it."""
    guard = house.heavy(max_inflight_bytes=_LIMIT_MB * 1024 * 1024)
    with guard:
        async with client(heavy_body(), guard.address) as clients:
            measuring_s = min(_MEASURING_S, seconds)
            await clients.in_turn(_AT_ONCE, 1.0)
            peak = await _peak(clients, measuring_s)
            calm = await clients.for_a_time(_HALF * peak, measuring_s)
            return [
                *await _flooded(clients, guard, peak, seconds),
                await _normal(clients, peak, calm),
                Check("answers well afterwards", int(await answers_well(clients)), "=", 1),
            ]


async def _peak(clients: Client, seconds: float) -> float:
    """Requests a second that are answered well, in a time in which some are."""
    while not (good := (await clients.in_turn(_AT_ONCE, seconds)).took("OK")):
        pass
    return len(good) / seconds


async def _flooded(clients: Client, guard: Guard, peak: float, seconds: float) -> list[Check]:
    before_mb = guard.rss_mb()
    guard.forget_peak()
    began_s = time.perf_counter()
    answers = await clients.for_a_time(_TIMES * peak, seconds)
    ended_s = time.perf_counter()
    good, refused = answers.took("OK"), answers.took("RESOURCE_EXHAUSTED")
    return [
        Check("requests sent a second", len(answers.codes) / seconds, ">=", 0.9 * _TIMES * peak, "", timed=True),
        Check("RESOURCE_EXHAUSTED", len(refused), ">", 0),
        Check("its p99", quantile_ms(refused, 0.99), "<=", _REFUSED_MS, "ms", timed=True),
        Check(
            f"goodput, to {peak:.1f}/s at the peak", len(good) / (ended_s - began_s) / peak, ">=", _GOODPUT, timed=True
        ),
        Check("share of other answers", 1 - (len(good) + len(refused)) / len(answers.codes), "<=", _LATE, timed=True),
        Check("RSS rise", guard.rss_mb(peak=True) - before_mb, "<=", _LIMIT_MB, "MB"),
    ]


async def _normal(clients: Client, peak: float, calm: Answers) -> Check:
    """Seconds until half of the peak is answered as before, for a second."""
    began_s, within_ms = time.perf_counter(), 2 * quantile_ms(calm.took_s, 0.5)
    while (took_s := time.perf_counter() - began_s) < 2 * _NORMAL_S:
        found = await clients.for_a_time(max(4.0, _HALF * peak), 1.0)
        if not found.lost() and quantile_ms(found.took_s, 0.5) <= within_ms:
            return Check("normal again after", took_s, "<=", _NORMAL_S, "s", timed=True)
        await asyncio.sleep(0.1)
    return Check("normal again after", took_s, "<=", _NORMAL_S, "s", timed=True)
