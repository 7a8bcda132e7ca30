"""One request through the stages: verdicts, and what is refused, passed or counted on the way."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from guard.config import Unlisted
from guard.errors import MalformedRequest, ModelNotListed, NonFiniteInput
from guard.values import Action, Course, InferRequest, Mode, UnscreenedReason, Verdict
from tests.gate.parts import ADVERSARIAL, CLEAN, Start, request


@pytest.mark.parametrize("offset", [0, 3])
async def test_clean(start: Start, offset: int) -> None:
    """A clean request is forwarded, wherever in its message the tensor lies; each item costs one evaluation."""
    guard = start()
    decision = await guard.ask(request(CLEAN, CLEAN, offset=offset))
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
    decisions = await asyncio.gather(
        *(guard.ask(request(*batch), decision_id=f"d-{n}") for n, batch in enumerate(batches))
    )
    assert [d.culprits for d in decisions] == [(n % 4,) if n % 4 < 3 else (0, 1, 2) for n in range(24)]
    assert [d.id for d in decisions] == [f"d-{n}" for n in range(24)]


async def test_unlisted_model(start: Start) -> None:
    """A model that no policy names is refused, or passed unscreened and counted, as the settings say."""
    with pytest.raises(ModelNotListed, match="'other' is not under guard: name it in the policy's `models`"):
        await start().ask(request(CLEAN, model="other"))
    passing = start(unlisted=Unlisted.PASS)
    decision = await passing.ask(request(ADVERSARIAL, model="other"))
    assert (decision.verdict, decision.action) == (Verdict.UNSCREENED, Action.FORWARD)
    assert decision.reason is UnscreenedReason.UNLISTED_MODEL
    assert passing.counted("guard_unscreened_requests_total") == {"unlisted_model": 1}
    assert passing.model.evaluated == []


@pytest.mark.parametrize(
    ("policy", "course"),
    [
        ({"mode": "enforce"}, Course.BEFORE),
        ({"mode": "enforce", "speculative": True}, Course.BESIDE),
        ({"mode": "flag"}, Course.BESIDE),
        ({"mode": "shadow"}, Course.BEHIND),
    ],
)
async def test_course(start: Start, policy: dict[str, object], course: Course) -> None:
    """Only enforce mode has the guarded server wait for the verdict, and shadow mode has nobody wait."""
    assert start(**policy).gate.course("digits") is course


async def test_course_of_what_is_not_guarded(start: Start) -> None:
    """A model without a policy is let through, or refused before anything of the request is read."""
    assert start(unlisted=Unlisted.PASS).gate.course("other") is Course.BEFORE
    with pytest.raises(ModelNotListed):
        start().gate.course("other")
    with pytest.raises(MalformedRequest):
        start(unlisted=Unlisted.PASS).gate.course("")


@pytest.mark.parametrize("unlisted", Unlisted)
async def test_no_model_named(start: Start, unlisted: Unlisted) -> None:
    """A request without a model's name is told so, whatever happens to models that aren't listed."""
    with pytest.raises(MalformedRequest, match="the request names no model: fill in its `model_name`"):
        await start(unlisted=unlisted).ask(request(CLEAN, model=""))


BAD = [
    (request(*[CLEAN] * 17), MalformedRequest, "holds 17 items, and Guard screens 16 at most: send smaller batches"),
    (request(CLEAN, (float("nan"), 1.0)), NonFiniteInput, "at item 1 of 2"),
    (InferRequest("digits", "", "", ()), MalformedRequest, "exactly one input, named 'input'"),
    (replace(request(CLEAN), content_type="pd"), MalformedRequest, "asks for content_type 'pd'; leave that out"),
    (replace(request(CLEAN), content_type=""), MalformedRequest, "asks for content_type ''; leave that out"),
]


@pytest.mark.parametrize(("bad", "error", "says"), BAD)
@pytest.mark.parametrize("mode", [Mode.FLAG, Mode.ENFORCE])
async def test_bad_request(start: Start, bad: InferRequest, error: type[Exception], says: str, mode: Mode) -> None:
    """A request that can't be understood is refused before it costs anything, saying what is wrong."""
    guard = start(mode=mode)
    with pytest.raises(error, match=says):
        await guard.ask(bad)
    assert guard.model.evaluated == []


async def test_plain_content_type(start: Start) -> None:
    """A client of MLServer says that its tensor is an array, which changes nothing."""
    assert (await start().ask(replace(request(CLEAN), content_type="np"))).verdict is Verdict.CLEAN


@pytest.mark.parametrize("bad", [bad for bad, _, _ in BAD])
async def test_shadow_refuses_nothing(start: Start, bad: InferRequest) -> None:
    """In shadow mode the same requests pass, counted as unscreened, and the wish of the policy is kept."""
    guard = start(mode=Mode.SHADOW)
    decision = await guard.ask(bad)
    assert (decision.verdict, decision.reason) == (Verdict.UNSCREENED, UnscreenedReason.INVALID_INPUT)
    assert (decision.intended, decision.action) == (Action.REJECT, Action.FORWARD)
    assert guard.counted("guard_unscreened_requests_total") == {"invalid_input": 1}
    assert guard.model.evaluated == []


async def test_unverified_model(start: Start) -> None:
    """While the served model is not recognised nothing is screened, and nothing is called clean."""
    guard = start(unverified="it is another")
    decision = await guard.screen(CLEAN, CLEAN)
    assert (decision.verdict, decision.reason, len(decision.items)) == (
        Verdict.UNSCREENED,
        UnscreenedReason.UNVERIFIED,
        2,
    )
    assert guard.model.evaluated == []
    assert guard.gate.unverified(request(CLEAN)) == "it is another"


async def test_verified_model(start: Start) -> None:
    """There is nothing to say of a model that is recognised, or that is not under guard."""
    gate = start().gate
    assert gate.unverified(request(CLEAN)) == gate.unverified(request(CLEAN, model="other")) == ""


async def test_each_request_is_counted_once(start: Start) -> None:
    """The metrics hold each decision, item and evaluation once; a refused request is none of these."""
    guard = start()
    await guard.screen(CLEAN, ADVERSARIAL)
    await guard.screen(CLEAN)
    with pytest.raises(MalformedRequest):
        await guard.ask(BAD[0][0])
    assert guard.counted("guard_items_total") == {"clean": 2, "adversarial": 1}
    assert guard.counted("guard_verdicts_total") == {"confidence": 1}
    assert guard.counted("guard_model_evaluations_total") == {"label": 3}
    assert guard.counted("guard_unscreened_requests_total") == {}
