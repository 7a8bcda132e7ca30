"""What was found as techniques of MITRE ATLAS, in the form that OCSF has for them.

Checked against ATLAS 5.6.0 (https://github.com/mitre-atlas/atlas-data).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from guard.values import Decision, Evidence, ItemDecision, Probing, Verdict

ATLAS_VERSION: Final = "5.6.0"

_STAGING = {"uid": "AML.TA0001", "name": "AI Attack Staging"}
_CRAFT = {"uid": "AML.T0043", "name": "Craft Adversarial Data"}
EVADE: Final = {
    "version": ATLAS_VERSION,
    "tactic": {"uid": "AML.TA0011", "name": "Impact"},
    "technique": {"uid": "AML.T0015", "name": "Evade AI Model"},
}
PERTURBED: Final = {"version": ATLAS_VERSION, "tactic": _STAGING, "technique": _CRAFT}
QUERIES: Final = {
    **PERTURBED,
    "sub_technique": {"uid": "AML.T0043.001", "name": "Black-Box Optimization"},
}
TRIGGER: Final = {
    **PERTURBED,
    "sub_technique": {"uid": "AML.T0043.004", "name": "Insert Backdoor Trigger"},
}


def attacks_of(decision: Decision) -> list[dict[str, Any]]:
    """The techniques that a request shows; none where nobody says that it attacks."""
    return list({str(each): each for item in decision.items for each in _of_item(item)}.values())


def _of_item(item: ItemDecision) -> Iterator[dict[str, Any]]:
    probing = [f for f in item.findings if isinstance(f, Probing)]
    if any(finding.suspicious for finding in probing):
        yield QUERIES
    if item.verdict is not Verdict.ADVERSARIAL:
        return
    if not any(finding.condemns for finding in probing):
        yield TRIGGER if _accuser(item) == "occlusion" else PERTURBED
    yield EVADE


def _accuser(item: ItemDecision) -> str:
    p_values = {f.detector: f.p_value for f in item.findings if isinstance(f, Evidence) and f.p_value is not None}
    return min(p_values, key=lambda detector: p_values[detector], default="")
