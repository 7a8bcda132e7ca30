"""What a record tells of an item: its verdict, and what each detector said."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from guard import __version__
from guard.values import (
    Abstention,
    Certified,
    Evidence,
    Fault,
    Finding,
    ItemDecision,
    Probing,
    Provenance,
    SharedPerturbation,
)


def item_data(item: ItemDecision, provenance: Provenance) -> dict[str, Any]:
    """What a record tells of an item."""
    return {
        "verdict": str(item.verdict),
        "p_value": number(item.p_value),
        "reason": None if item.reason is None else str(item.reason),
        "detectors": [_found(finding, provenance) for finding in item.findings],
        **({} if item.together is None else {"together": _numbers(asdict(item.together))}),
    }


def _found(finding: Finding, provenance: Provenance) -> dict[str, Any]:
    """What one detector said: its name, version and kind of finding, and what that kind has."""
    said: dict[str, Any] = {
        "detector": finding.detector,
        "version": provenance.detectors.get(finding.detector, __version__),
        "finding": type(finding).__name__.lower(),
        "evaluations": finding.evaluations,
    }
    match finding:
        case Evidence():
            said |= {"score": number(finding.score), "p_value": number(finding.p_value), "samples": finding.samples}
            said |= {"share": number(finding.share), "details": _numbers(finding.details)}
            if (seen := finding.occlusion) is not None:
                heat = [[number(round(value, 4)) for value in row] for row in seen.heat]
                said["occlusion"] = {
                    "heat": heat,
                    "tops": list(seen.tops),
                    "lefts": list(seen.lefts),
                    "hottest": list(seen.hottest),
                    "recovered": seen.recovered,
                }
        case Certified(certificate=proved):
            said |= {"label": proved.label, "radius": number(proved.radius), "sigma": number(proved.sigma)}
        case Abstention(why=why):
            said["why"] = why
        case Fault(reason=reason):
            said["why"] = str(reason)
        case Probing():
            said |= {"of_client": finding.of_client, "of_everyone": finding.of_everyone, "group": finding.group}
            said |= {"suspicious": finding.suspicious}
        case SharedPerturbation():
            said |= {"shared_with": finding.shared_with, "compared_with": finding.compared_with}
    return said


def number(value: float | None) -> float | None:
    """A number that JSON has; None for what it has not."""
    return value if value is not None and math.isfinite(value) else None


def _numbers(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: number(value) for name, value in values.items()}
