"""What a client's behaviour adds to the verdict on an item. It is a finding of its own and enters no p-value."""

from __future__ import annotations

from dataclasses import replace

from guard.values import Fault, FaultReason, ItemDecision, Probing, UnscreenedReason, Verdict


def with_probing(item: ItemDecision, finding: Probing | Fault, *, reject: bool) -> ItemDecision:
    """The verdict on an item, once it is known what was sent before it.

    Where the policy only reports, nothing but the findings changes. Where it rejects, an item that probes around
    earlier ones is adversarial, and one that could not be compared is unscreened, unless it is adversarial already.
    """
    noted = replace(item, findings=(*item.findings, finding))
    if not reject or item.verdict is Verdict.ADVERSARIAL:
        return noted
    if isinstance(finding, Fault):
        deadline = finding.reason is FaultReason.DEADLINE
        reason = item.reason or (UnscreenedReason.DEADLINE if deadline else UnscreenedReason.FAULT)
        return replace(noted, verdict=Verdict.UNSCREENED, reason=reason)
    if not finding.suspicious:
        return noted
    condemning = replace(finding, condemns=True)
    return replace(item, verdict=Verdict.ADVERSARIAL, reason=None, findings=(*item.findings, condemning))
