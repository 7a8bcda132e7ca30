"""decide: a verdict to what the policy wants, and to what the mode lets happen."""

from __future__ import annotations

import itertools

import pytest

from guard.config import ModelPolicy
from guard.decide.decide import decide, pass_unlisted, unscreened_item
from guard.values import Action, Decision, ItemDecision, Mode, UnscreenedReason, Verdict

FORWARD, FLAG, REJECT = Action.FORWARD, Action.FLAG, Action.REJECT
DONE = {
    Mode.SHADOW: {FORWARD: FORWARD, FLAG: FORWARD, REJECT: FORWARD},
    Mode.FLAG: {FORWARD: FORWARD, FLAG: FLAG, REJECT: FLAG},
    Mode.ENFORCE: {FORWARD: FORWARD, FLAG: FLAG, REJECT: REJECT},
}


def item(verdict: Verdict, p_value: float | None = 0.5, reason: UnscreenedReason | None = None) -> ItemDecision:
    """A judged item."""
    return ItemDecision(verdict, p_value, (), reason)


def decided(*items: ItemDecision, **policy: object) -> Decision:
    """The decision on these items."""
    return decide("d-1", "digits", ModelPolicy.model_validate({"profile": "unused", **policy}), items)


@pytest.mark.parametrize(
    ("verdict", "mode", "on_unscreened", "on_abstain"), list(itertools.product(Verdict, Mode, Action, Action))
)
def test_every_policy(verdict: Verdict, mode: Mode, on_unscreened: Action, on_abstain: Action) -> None:
    """The verdict alone gives the wish, by policy; the mode caps the deed and never touches the wish."""
    wish = {
        Verdict.CLEAN: FORWARD,
        Verdict.ADVERSARIAL: REJECT,
        Verdict.UNSCREENED: on_unscreened,
        Verdict.ABSTAIN: on_abstain,
    }
    decision = decided(item(verdict), mode=mode, on_unscreened=on_unscreened, on_abstain=on_abstain)
    assert (decision.verdict, decision.mode) == (verdict, mode)
    assert (decision.intended, decision.action) == (wish[verdict], DONE[mode][wish[verdict]])


@pytest.mark.parametrize("verdicts", list(itertools.product(Verdict, repeat=3)))
def test_worst_item_wins(verdicts: tuple[Verdict, ...]) -> None:
    """A batch is as bad as its worst item, in whatever order its items are; those that share it are the culprits."""
    worst_first = [Verdict.ADVERSARIAL, Verdict.UNSCREENED, Verdict.ABSTAIN, Verdict.CLEAN]
    worst = min(verdicts, key=worst_first.index)
    decision = decided(*(item(verdict) for verdict in verdicts))
    assert decision.verdict is worst
    assert decision.culprits == tuple(i for i, verdict in enumerate(verdicts) if verdict is worst)


def test_p_value_is_the_culprits_smallest() -> None:
    """A request's p-value is the smallest of the items that share its verdict; None where those have none."""
    adversarial = (item(Verdict.ADVERSARIAL, 0.02), item(Verdict.ADVERSARIAL, 0.01))
    assert decided(item(Verdict.CLEAN, 0.001), *adversarial).p_value == 0.01
    assert decided(item(Verdict.CLEAN, 0.1), unscreened_item(UnscreenedReason.OVERLOAD)).p_value is None


def test_reason_is_the_first_culprits() -> None:
    """An unscreened request says why nobody looked; a request that is worse than that does not."""
    unscreened = (unscreened_item(UnscreenedReason.DEADLINE), unscreened_item(UnscreenedReason.OVERLOAD))
    assert decided(item(Verdict.CLEAN), *unscreened).reason is UnscreenedReason.DEADLINE
    assert decided(item(Verdict.ADVERSARIAL), *unscreened).reason is None


def test_evaluations_add_up() -> None:
    """What the items spent is summed by detector."""
    policy = ModelPolicy(profile="unused")
    spent = [{"label": 1, "squeezing": 3}, {}, {"label": 1, "smoothing": 8}]
    decision = decide("d-1", "digits", policy, (item(Verdict.CLEAN),), spent)
    assert decision.spent == {"label": 2, "squeezing": 3, "smoothing": 8}


def test_unlisted_models() -> None:
    """A model that no policy names passes where the settings say so, and is never called screened."""
    decision = pass_unlisted("d-1", "other")
    assert (decision.verdict, decision.reason) == (Verdict.UNSCREENED, UnscreenedReason.UNLISTED_MODEL)
    assert (decision.intended, decision.action, decision.model) == (Action.FORWARD, Action.FORWARD, "other")
