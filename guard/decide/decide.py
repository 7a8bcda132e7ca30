"""A verdict to an action: what the policy wants, and what the mode lets happen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from guard.config import ModelPolicy
from guard.values import Action, Decision, ItemDecision, Mode, UnscreenedReason, Verdict

_WORST_FIRST = (Verdict.ADVERSARIAL, Verdict.UNSCREENED, Verdict.ABSTAIN, Verdict.CLEAN)


def decide(
    decision_id: str,
    model: str,
    policy: ModelPolicy,
    items: tuple[ItemDecision, ...],
    spent: Iterable[Mapping[str, int]] = (),
) -> Decision:
    """Judge a request by its worst item and turn the verdict into an action.

    `intended` is what the policy wants of the verdict whatever the mode; shadow and flag mode change `action` only.
    """
    verdict = next(v for v in _WORST_FIRST if any(item.verdict is v for item in items))
    worst = [item for item in items if item.verdict is verdict]
    intended = _intended(verdict, policy)
    total: Counter[str] = Counter()
    for counts in spent:
        total.update(counts)
    return Decision(
        id=decision_id,
        model=model,
        mode=policy.mode,
        verdict=verdict,
        p_value=min((item.p_value for item in worst if item.p_value is not None), default=None),
        intended=intended,
        action=_allowed(intended, policy.mode),
        items=items,
        reason=next((item.reason for item in worst if item.reason is not None), None),
        spent=dict(total),
    )


def unscreened_item(reason: UnscreenedReason) -> ItemDecision:
    """The decision on an item that nobody looked at."""
    return ItemDecision(Verdict.UNSCREENED, None, (), reason)


def pass_unlisted(decision_id: str, model: str) -> Decision:
    """The decision on a model that no policy names, when the settings let those pass: forwarded, never silently."""
    return Decision(
        id=decision_id,
        model=model,
        mode=Mode.FLAG,
        verdict=Verdict.UNSCREENED,
        p_value=None,
        intended=Action.FORWARD,
        action=Action.FORWARD,
        items=(),
        reason=UnscreenedReason.UNLISTED_MODEL,
    )


def _intended(verdict: Verdict, policy: ModelPolicy) -> Action:
    match verdict:
        case Verdict.ADVERSARIAL:
            return Action.REJECT
        case Verdict.UNSCREENED:
            return policy.on_unscreened
        case Verdict.ABSTAIN:
            return policy.on_abstain
        case Verdict.CLEAN:
            return Action.FORWARD


def _allowed(intended: Action, mode: Mode) -> Action:
    strictest = {Mode.SHADOW: Action.FORWARD, Mode.FLAG: Action.FLAG, Mode.ENFORCE: Action.REJECT}[mode]
    return min(intended, strictest, key=lambda action: action.severity)
