"""The guarded server dies, or stops without a word, while clients go on."""

from __future__ import annotations

import asyncio
import os
import signal
import time

from benchmarks.chaos.house import UNRESPONSIVE_S, Guard, House
from benchmarks.chaos.load import Answers, Client, client, quantile_ms
from benchmarks.chaos.table import Check

_RATE = 50
_HASTE_S = 0.3
_BEFORE_S = 1.0
_RECOVERY_S = 60.0
_WITHIN_MS = 1000
_UNRESPONSIVE = "guard_upstream_unresponsive "


async def stopped(house: House, seconds: float) -> list[Check]:
    """SIGSTOP the server for so long."""
    with house.guard("impatient", upstream={"unresponsive_s": UNRESPONSIVE_S}) as guard:
        return await _stopped(house, guard, seconds)


async def _stopped(house: House, guard: Guard, seconds: float) -> list[Check]:
    pid = house.triton_pid()
    async with (
        client(house.body, guard.address) as clients,
        clients.stream() as stream,
        clients.traffic(_RATE, timeout_s=seconds + 30) as answers,
    ):
        await asyncio.sleep(_BEFORE_S)
        os.killpg(pid, signal.SIGSTOP)
        try:
            began_s, haste = time.perf_counter(), asyncio.create_task(_hasty(clients))
            ending = asyncio.create_task(stream.end(ask=True))
            most, shown = await _watch(guard, began_s + seconds)
        finally:
            os.killpg(pid, signal.SIGCONT)
        ended_s = time.perf_counter()
        recovered_s = await _recovered(clients, ended_s)
        still = await _shown_still(guard)
    took = answers.took(since_s=began_s, until_s=ended_s)
    return [
        *_refused(answers, began_s, ended_s),
        *_ended(*await ending),
        Check("longest wait", 1000 * max(took, default=0.0), "<=", _WITHIN_MS, "ms", timed=True),
        Check(
            f"p99 with a deadline of {_HASTE_S:g} s",
            quantile_ms((await haste).took_s, 0.99),
            "<=",
            500,
            "ms",
            timed=True,
        ),
        Check("most in flight", most, "<=", 1.5 * _RATE * (1 + _HASTE_S), "", timed=True),
        Check("guard_upstream_unresponsive meanwhile", shown, "=", 1),
        Check("and afterwards", still, "=", 0),
        Check("answers again after", recovered_s, "<=", _RECOVERY_S, "s"),
    ]


async def killed(house: House, seconds: float) -> list[Check]:
    """SIGKILL the server, and start it again after so long."""
    guard = house.common()
    async with (
        client(house.body, guard.address) as clients,
        clients.stream() as stream,
        clients.traffic(_RATE, timeout_s=seconds + 30) as answers,
    ):
        await asyncio.sleep(_BEFORE_S)
        os.killpg(house.triton_pid(), signal.SIGKILL)
        began_s, ending = time.perf_counter(), asyncio.create_task(stream.end(ask=False))
        most, _ = await _watch(guard, began_s + seconds)
        ended_s = time.perf_counter()
        await asyncio.to_thread(house.triton.ensure_running)
        recovered_s = await _recovered(clients, time.perf_counter())
    return [
        *_refused(answers, began_s, ended_s),
        *_ended(*await ending),
        Check("most in flight", most, "<=", 1.5 * _RATE, "", timed=True),
        Check("answers again after", recovered_s, "<=", _RECOVERY_S, "s"),
    ]


def _refused(answers: Answers, began_s: float, ended_s: float) -> list[Check]:
    """What was heard while nobody was there; a moment is left for what was under way."""
    meanwhile = answers.took(since_s=began_s + 1.5, until_s=ended_s)
    refused = answers.took("UNAVAILABLE", since_s=began_s + 1.5, until_s=ended_s)
    all_refused = answers.took("UNAVAILABLE", since_s=began_s, until_s=ended_s)
    return [
        Check("answers that were not UNAVAILABLE", len(meanwhile) - len(refused), "=", 0),
        Check("UNAVAILABLE", len(refused), ">", 0),
        Check("its p99", quantile_ms(all_refused, 0.99), "<=", _WITHIN_MS, "ms", timed=True),
    ]


def _ended(code: str, took_s: float) -> list[Check]:
    """How a stream ended that was open before."""
    return [
        Check("open streams that did not end as UNAVAILABLE", int(code != "UNAVAILABLE"), "=", 0),
        Check("the wait of one", 1000 * took_s, "<=", _WITHIN_MS, "ms", timed=True),
    ]


async def _hasty(clients: Client) -> Answers:
    """Clients with a short deadline, before it is known that nobody answers and after."""
    return await clients.for_a_time(_RATE * _HASTE_S, 1.0, timeout_s=_HASTE_S)


async def _watch(guard: Guard, until_s: float) -> tuple[float, float]:
    """The most requests in flight, and whether Guard showed that the server does not answer."""
    most = shown = 0.0
    while time.perf_counter() < until_s:
        inflight, unresponsive = await asyncio.to_thread(
            lambda: [guard.counted(f"guard_{name} ") for name in ("inflight_requests", "upstream_unresponsive")]
        )
        most, shown = max(most, inflight), max(shown, unresponsive)
        await asyncio.sleep(0.1)
    return most, shown


async def _shown_still(guard: Guard) -> float:
    """What Guard shows of the server once it answers again: a busy machine may make it look stopped once more."""
    ends_s = time.perf_counter() + _RECOVERY_S
    while (shown := await asyncio.to_thread(guard.counted, _UNRESPONSIVE)) and time.perf_counter() < ends_s:  # noqa: ASYNC110 - another process
        await asyncio.sleep(0.1)
    return shown


async def _recovered(clients: Client, since_s: float) -> float:
    """Seconds until a request is answered well."""
    while await clients.ask(Answers(), timeout_s=5.0) != "OK":
        if time.perf_counter() - since_s > _RECOVERY_S:
            return float("inf")
        await asyncio.sleep(0.05)
    return time.perf_counter() - since_s
