"""Overload, deadlines, cancellation and failures: whatever happens, each item gets an honest verdict."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from guard.errors import BackendError
from guard.values import Action, UnscreenedReason, Verdict
from tests.gate.parts import ADVERSARIAL, CLEAN, Start
from tests.support.waiting import PATIENCE_S


async def test_overload(start: Start) -> None:
    """A batch of which an item finds the queue full is screened not at all, at no cost, and nothing hangs."""
    guard = start(queue=1, live=1)
    busy = await guard.occupy()
    screening = asyncio.create_task(guard.screen(CLEAN, CLEAN, CLEAN))
    await asyncio.sleep(0)  # the task runs up to its wait for the engine
    guard.model.open.set()
    decision = await asyncio.wait_for(screening, PATIENCE_S)
    await busy
    assert [item.verdict for item in decision.items] == [Verdict.UNSCREENED] * 3
    assert decision.spent == {}
    assert (decision.reason, decision.action) == (UnscreenedReason.OVERLOAD, Action.REJECT)
    assert guard.counted("guard_unscreened_requests_total") == {"overload": 1}


async def test_batch_too_large_for_its_time(start: Start) -> None:
    """With nobody else about, a batch that can't be done in time failed its deadline; it is no overload to retry on."""
    guard = start(queue=2, live=1, screening_budget_s=2.0)
    guard.model.open.clear()
    decision = await guard.screen(*[CLEAN] * 9)
    guard.model.open.set()
    assert [item.reason for item in decision.items] == [UnscreenedReason.DEADLINE] * 9
    assert guard.counted("guard_unscreened_requests_total") == {"deadline": 1}


async def test_overload_from_the_first_item(start: Start) -> None:
    """A request that finds no room at all is answered at once."""
    guard = start(queue=1, live=1)
    busy = await guard.occupy()
    queued = asyncio.wrap_future(guard.engine.submit(np.array(CLEAN, np.float32)))
    decision = await guard.screen(ADVERSARIAL, CLEAN)
    assert [item.reason for item in decision.items] == [UnscreenedReason.OVERLOAD] * 2
    guard.model.open.set()
    await asyncio.gather(busy, queued)
    assert guard.model.evaluated == [CLEAN, CLEAN]


@pytest.mark.parametrize(
    ("budget_s", "deadline_s", "reason"),
    [
        (0.05, None, UnscreenedReason.DEADLINE),
        (60.0, 0.05, UnscreenedReason.CLIENT_DEADLINE),
        (0.05, 60.0, UnscreenedReason.DEADLINE),
        (60.0, 0.0, UnscreenedReason.CLIENT_DEADLINE),
        (60.0, -1.0, UnscreenedReason.CLIENT_DEADLINE),
    ],
)
async def test_deadline(start: Start, budget_s: float, deadline_s: float | None, reason: UnscreenedReason) -> None:
    """Screening takes no longer than the client's deadline and the policy's budget, and costs nothing once they end.

    The shorter of the two is the reason.
    """
    guard = start(live=1, screening_budget_s=budget_s)
    busy = await guard.occupy()
    decision = await asyncio.wait_for(guard.screen(ADVERSARIAL, CLEAN, deadline_s=deadline_s), PATIENCE_S)
    assert [item.reason for item in decision.items] == [reason] * 2
    assert (decision.verdict, decision.reason) == (Verdict.UNSCREENED, reason)
    assert guard.counted("guard_unscreened_requests_total") == {reason: 1}
    guard.model.open.set()
    await busy
    while guard.engine.depth:  # noqa: ASYNC110 - it tells nobody
        await asyncio.sleep(0)  # until it has dropped what expired, and takes others again
    await asyncio.wrap_future(guard.engine.submit(np.array(ADVERSARIAL, np.float32)))  # with all the time it needs
    assert guard.model.evaluated == [CLEAN, ADVERSARIAL], "the items that expired were never evaluated"


@pytest.mark.parametrize(
    ("budget_s", "deadline_s", "reason"),
    [
        (60.0, 0.05, UnscreenedReason.CLIENT_DEADLINE),
        (0.05, None, UnscreenedReason.OVERLOAD),
        (0.05, 0.04, UnscreenedReason.OVERLOAD),
    ],
)
async def test_queue_too_long_for_a_deadline(
    start: Start, budget_s: float, deadline_s: float | None, reason: UnscreenedReason
) -> None:
    """An item that is refused since others come first is the client's doing where the policy's time would have done."""
    guard = start(live=1, screening_budget_s=budget_s)
    busy = await guard.occupy()
    await asyncio.sleep(0.3)
    guard.model.open.set()
    await busy  # so an item takes 0.3 s, the engine believes
    busy = await guard.occupy()
    queued = asyncio.wrap_future(guard.engine.submit(np.array(CLEAN, np.float32)))
    decision = await guard.screen(ADVERSARIAL, deadline_s=deadline_s)
    assert decision.reason is reason
    guard.model.open.set()
    await asyncio.gather(busy, queued)


async def test_cancellation(start: Start) -> None:
    """A caller that goes away takes its items along: those that wait are never evaluated."""
    guard = start(live=1)
    busy = await guard.occupy()
    screening = asyncio.create_task(guard.screen(ADVERSARIAL, ADVERSARIAL, ADVERSARIAL))
    await asyncio.sleep(0)  # as in test_overload
    assert guard.engine.depth == 3
    screening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await screening
    guard.model.open.set()
    await busy
    await guard.screen(CLEAN)
    assert guard.model.evaluated == [CLEAN, CLEAN]


async def test_engine_that_does_not_run(start: Start) -> None:
    """Without an engine every item is a fault, at once, and none is called clean."""
    decision = await start(running=False).screen(CLEAN, CLEAN)
    assert [item.reason for item in decision.items] == [UnscreenedReason.FAULT] * 2


async def test_engine_that_stops(start: Start) -> None:
    """An engine that stops while a request waits answers it with faults."""
    guard = start(live=1)
    busy = await guard.occupy()
    screening = asyncio.create_task(guard.screen(CLEAN, CLEAN))
    await asyncio.sleep(0)  # as in test_overload
    guard.engine.stop(timeout_s=0.0)
    guard.model.open.set()
    decision = await asyncio.wait_for(screening, PATIENCE_S)
    assert [item.reason for item in decision.items] == [UnscreenedReason.FAULT] * 2
    await asyncio.wait([busy])
    assert busy.exception() is not None


@pytest.mark.parametrize("failure", [BackendError("gone"), ValueError("a bug")])
async def test_failing_replica(start: Start, failure: Exception) -> None:
    """A replica that fails makes items unscreened; the next request finds the engine at work."""
    guard = start()
    guard.model.failure = failure
    decision = await guard.screen(CLEAN)
    assert (decision.verdict, decision.reason) == (Verdict.UNSCREENED, UnscreenedReason.FAULT)
    guard.model.failure = None
    assert (await guard.screen(CLEAN)).verdict is Verdict.CLEAN
