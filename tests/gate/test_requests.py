"""One request through the stages: verdicts, and what is refused, passed or counted on the way."""

from __future__ import annotations

import asyncio

import pytest

from guard.config import Unlisted
from guard.errors import MalformedRequest, ModelNotListed, NonFiniteInput
from guard.values import Action, InferRequest, Mode, UnscreenedReason, Verdict
from tests.gate.parts import ADVERSARIAL, CLEAN, Start, request


@pytest.mark.parametrize("offset", [0, 3])
async def test_clean(start: Start, offset: int) -> None:
    """A clean request is forwarded, wherever in its message the tensor lies; each item costs one evaluation."""
    guard = start()
    decision = await guard.gate.screen(request(CLEAN, CLEAN, offset=offset), deadline_s=None)
    assert (decision.verdict, decision.action, decision.culprits) == (Verdict.CLEAN, Action.FORWARD, (0, 1))
    assert decision.spent == {"label": 2}
    assert guard.model.evaluated == [CLEAN, CLEAN]


async def test_one_adversarial_item_of_eight(start: Start) -> None:
    """A batch with one adversarial item is rejected, and says which one it is."""
    decision = await start().screen(*[CLEAN] * 5, ADVERSARIAL, *[CLEAN] * 2)
    assert (decision.verdict, decision.intended, decision.action) == (
        Verdict.ADVERSARIAL,
        Action.REJECT,
        Action.REJECT,
    )
    assert decision.culprits == (5,)
    assert decision.p_value == decision.items[5].p_value == 1 / 201


async def test_concurrent_requests_keep_their_items(start: Start) -> None:
    """Requests screened together are each judged by their own items."""
    guard = start()
    batches = [[ADVERSARIAL if row == n % 4 else CLEAN for row in range(3)] for n in range(24)]
    decisions = await asyncio.gather(*(guard.screen(*batch) for batch in batches))
    assert [d.culprits for d in decisions] == [(n % 4,) if n % 4 < 3 else (0, 1, 2) for n in range(24)]
    assert len({d.id for d in decisions}) == 24


async def test_unlisted_model(start: Start) -> None:
    """A model that no policy names is refused, or passed unscreened and counted, as the settings say."""
    with pytest.raises(ModelNotListed, match="'other' is not under guard: name it in the policy's `models`"):
        await start().gate.screen(request(CLEAN, model="other"), deadline_s=None)
    passing = start(unlisted=Unlisted.PASS)
    decision = await passing.gate.screen(request(ADVERSARIAL, model="other"), deadline_s=None)
    assert (decision.verdict, decision.action) == (Verdict.UNSCREENED, Action.FORWARD)
    assert decision.reason is UnscreenedReason.UNLISTED_MODEL
    assert passing.counted("guard_unscreened_requests_total") == {"unlisted_model": 1}
    assert passing.model.evaluated == []


BAD = [
    (request(*[CLEAN] * 17), MalformedRequest, "holds 17 items and Guard screens 16 at most: send smaller batches"),
    (request(CLEAN, (float("nan"), 1.0)), NonFiniteInput, "at item 1 of 2"),
    (InferRequest("digits", "", "", ()), MalformedRequest, "exactly one input, named 'input'"),
]


@pytest.mark.parametrize(("bad", "error", "says"), BAD)
@pytest.mark.parametrize("mode", [Mode.FLAG, Mode.ENFORCE])
async def test_bad_request(start: Start, bad: InferRequest, error: type[Exception], says: str, mode: Mode) -> None:
    """A request that can't be understood is refused before it costs anything, saying what is wrong."""
    guard = start(mode=mode)
    with pytest.raises(error, match=says):
        await guard.gate.screen(bad, deadline_s=None)
    assert guard.model.evaluated == []


@pytest.mark.parametrize("bad", [bad for bad, _, _ in BAD])
async def test_shadow_refuses_nothing(start: Start, bad: InferRequest) -> None:
    """In shadow mode the same requests pass, counted as unscreened, and the wish of the policy is kept."""
    guard = start(mode=Mode.SHADOW)
    decision = await guard.gate.screen(bad, deadline_s=None)
    assert (decision.verdict, decision.reason) == (Verdict.UNSCREENED, UnscreenedReason.INVALID_INPUT)
    assert (decision.intended, decision.action) == (Action.REJECT, Action.FORWARD)
    assert guard.counted("guard_unscreened_requests_total") == {"invalid_input": 1}
    assert guard.model.evaluated == []


async def test_unverified_model(start: Start) -> None:
    """While the served model is not recognised nothing is screened, and nothing is called clean."""
    guard = start(verified=False)
    decision = await guard.screen(CLEAN, CLEAN)
    assert (decision.verdict, decision.reason, len(decision.items)) == (
        Verdict.UNSCREENED,
        UnscreenedReason.UNVERIFIED,
        2,
    )
    assert guard.model.evaluated == []


async def test_each_request_is_counted_once(start: Start) -> None:
    """The metrics hold each decision, item and evaluation once; a refused request is none of these."""
    guard = start()
    await guard.screen(CLEAN, ADVERSARIAL)
    await guard.screen(CLEAN)
    with pytest.raises(MalformedRequest):
        await guard.gate.screen(BAD[0][0], deadline_s=None)
    assert guard.counted("guard_items_total") == {"clean": 2, "adversarial": 1}
    assert guard.counted("guard_verdicts_total") == {"confidence": 1}
    assert guard.counted("guard_model_evaluations_total") == {"label": 3}
    assert guard.counted("guard_unscreened_requests_total") == {}
