"""A detector that raises, hangs or returns NaN, and an engine whose thread dies."""

from __future__ import annotations

import asyncio
import time

from benchmarks.chaos.house import House, Planted
from benchmarks.chaos.load import Answers, Client, answers_well, client
from benchmarks.chaos.table import Check

_REQUESTS = 10
_SOON_S = 30.0
_BUDGET_S = 1.0
_OK, _UNAVAILABLE = 200, 503


async def faulty(house: House, hang_s: float) -> list[Check]:
    """Each fault in turn, in enforce mode; an engine is said to hang after so long."""
    policy = {"mode": "enforce", "on_unscreened": "reject", "screening_budget_s": _BUDGET_S}
    with house.planted("faulty", policy=policy) as guard:
        async with client(house.body, guard.address) as clients:
            checks = [check for fault in ("raise", "nan") for check in await _borne(guard, clients, fault)]
            checks += await _hanging(guard, clients, hang_s)
            return [*checks, *await _dying(guard, clients)]


async def _borne(guard: Planted, clients: Client, fault: str) -> list[Check]:
    """A fault of one detector: fail closed, counted, and over when it is over."""
    let_through, counted = await _asked(guard, clients, fault)
    live, _ = await asyncio.to_thread(guard.get, "/livez")
    guard.plant("")
    return [
        Check(f"{fault}: let through", let_through, "=", 0),
        Check(f"{fault}: counted as unscreened", counted, "=", _REQUESTS),
        Check(f"{fault}: /livez", live, "=", _OK),
        Check(f"{fault}: answered well afterwards", int(await answers_well(clients)), "=", 1),
    ]


async def _hanging(guard: Planted, clients: Client, hang_s: float) -> list[Check]:
    let_through, counted = await _asked(guard, clients, f"hang {hang_s:g}")
    dead_s = await _until(guard, _UNAVAILABLE, hang_s + _SOON_S)
    guard.plant("")
    await _until(guard, _OK, _SOON_S)
    live, _ = await asyncio.to_thread(guard.get, "/livez")
    return [
        Check("hang: let through", let_through, "=", 0),
        Check("hang: counted as unscreened", counted, "=", _REQUESTS),
        Check(
            f"hang: /livez fails after {hang_s:g} s, not before {_REQUESTS} requests were answered", dead_s, ">", 0, "s"
        ),
        Check("hang: and is well once it ended", live, "=", _OK),
        Check("hang: answered well afterwards", int(await answers_well(clients)), "=", 1),
    ]


async def _dying(guard: Planted, clients: Client) -> list[Check]:
    """The engine's thread dies: what cannot be mended fails closed until the process is started again."""
    let_through, counted = await _asked(guard, clients, "die")
    dead_s = await _until(guard, _UNAVAILABLE, _SOON_S)
    ready, why = await asyncio.to_thread(guard.get, "/readyz")
    return [
        Check("die: let through", let_through, "=", 0),
        Check("die: counted as unscreened", counted, "=", _REQUESTS),
        Check("die: /livez fails", dead_s, "<=", _SOON_S, "s"),
        Check(
            "die: /readyz says which", ready == _UNAVAILABLE and "the screening engine is not running" in why, "=", 1
        ),
    ]


async def _asked(guard: Planted, clients: Client, fault: str) -> tuple[int, float]:
    """Plant a fault and send requests: how many were answered well, and were counted as unscreened."""
    before = await asyncio.to_thread(guard.counted, "guard_unscreened_requests_total")
    guard.plant(fault)
    answers = Answers()
    await asyncio.gather(*(clients.ask(answers) for _ in range(_REQUESTS)))
    after = await asyncio.to_thread(guard.counted, "guard_unscreened_requests_total")
    return answers.codes.count("OK"), after - before


async def _until(guard: Planted, status: int, within_s: float) -> float:
    """Seconds until the liveness probe says so."""
    began_s = time.perf_counter()
    while (await asyncio.to_thread(guard.get, "/livez"))[0] != status:
        if time.perf_counter() - began_s > within_s:
            return float("inf")
        await asyncio.sleep(0.05)
    return time.perf_counter() - began_s
