"""What the demo shows at its end: the table for people, and the same as JSON for machines."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from guard import __version__
from guard.demo.traffic import TARGET_CAUGHT, Kind

STABLE_BUDGET = 24
"""What sensitivity and certificate together may cost for an image of which no noisy copy changes the label."""

_SHARED = ("sensitivity_gaussian", "smoothing")


def show(console: Console, kinds: Sequence[Kind], *, asked: float, accuracy: float) -> None:
    """Print the table, the false-positive rate and what a stable input costs."""
    console.print(_table(kinds))
    benign = _benign(kinds)
    low, high = benign.caught_interval
    held = "consistent with it" if low <= asked else "EXCEEDED"
    measured = f"{benign.caught / benign.requests:.1%} [{low:.1%}, {high:.1%}]"
    for line in (
        f"The model is right on {accuracy:.1%} of held-out digits; only attacks that made it wrong were sent.",
        f"False-positive rate: asked {asked:.1%}, measured {measured} on {benign.requests} held-out digits: {held}.",
        _stable_in_words(_stable(benign)),
    ):
        console.print(line, highlight=False)
    missed = [kind.name for kind in kinds if kind.reaches_target is False]
    if missed:
        console.print(f"Caught less than {TARGET_CAUGHT:.0%}: {', '.join(missed)}.", style="yellow", highlight=False)


def _stable(benign: Kind) -> dict[str, Any]:
    """What sensitivity and certificate together cost for stable digits, beside what was promised, and for all."""
    stable, everything = benign.evaluations_if_stable(*_SHARED), benign.evaluations_for(*_SHARED)
    most = float(stable.max()) if stable.size else None
    return {
        "promised": STABLE_BUDGET,
        "stable": len(stable),
        "requests": len(everything),
        "maximum": most,
        "kept": None if most is None else most <= STABLE_BUDGET,
        "share_of_all_within": float(np.mean(everything <= STABLE_BUDGET)),
    }


def _stable_in_words(cost: Mapping[str, Any]) -> str:
    digits = f"{cost['stable']} of {cost['requests']} held-out digits are stable: no noisy copy had another label."
    if cost["maximum"] is None:
        return digits
    promise = f"{cost['promised']} were promised: {'kept' if cost['kept'] else 'EXCEEDED'}"
    return (
        f"{digits} Sensitivity and certificate together cost at most {cost['maximum']:.0f} evaluations for each of "
        f"these; {promise}. {cost['share_of_all_within']:.0%} of all held-out digits cost {cost['promised']} or fewer."
    )


def _table(kinds: Sequence[Kind]) -> Table:
    table = Table(
        title="One image a request; evaluations are means; intervals at 95 %", box=SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    table.add_column("traffic", no_wrap=True)
    for heading in ("sent", "forwarded/\nflagged/\nrejected", "caught", "evals", "added\nms\np50", "\n\np99"):
        table.add_column(heading, justify="right", no_wrap=True)
    for kind in kinds:
        table.add_row(
            kind.name,
            str(kind.requests),
            " / ".join(str(kind.outcomes[outcome]) for outcome in ("forwarded", "flagged", "rejected")),
            _caught(kind),
            f"{kind.mean_evaluations:.1f}",
            f"{1000 * kind.added_quantile_s(0.5):.1f}",
            f"{1000 * kind.added_quantile_s(0.99):.1f}",
            style="yellow" if kind.reaches_target is False else "",
        )
    return table


def _caught(kind: Kind) -> str:
    low, high = kind.caught_interval
    share = f"{kind.caught / max(kind.requests, 1):.1%} [{100 * low:.0f}, {100 * high:.0f}]"
    return f"{share}\nBELOW {TARGET_CAUGHT:.0%}" if kind.reaches_target is False else share


def as_json(kinds: Sequence[Kind], *, asked: float, accuracy: float, seed: int) -> dict[str, Any]:
    """The same, for machines."""
    benign = _benign(kinds)
    return {
        "guard_version": __version__,
        "seed": seed,
        "model_accuracy": accuracy,
        "false_positive_rate": {
            "asked": asked,
            "measured": benign.caught / benign.requests,
            "interval_95": list(benign.caught_interval),
            "requests": benign.requests,
        },
        "stable_evaluations": _stable(benign),
        "traffic": [_row(kind) for kind in kinds],
    }


def _row(kind: Kind) -> dict[str, Any]:
    return {
        "kind": kind.name,
        "attack": kind.attack,
        "attempts": kind.attempts,
        "requests": kind.requests,
        **{outcome: kind.outcomes[outcome] for outcome in ("forwarded", "flagged", "rejected")},
        "caught": kind.caught / kind.requests if kind.requests else None,
        "caught_interval_95": list(kind.caught_interval),
        "reaches_target": kind.reaches_target,
        "mean_evaluations": _number(kind.mean_evaluations),
        "added_latency_p50_s": _number(kind.added_quantile_s(0.5)),
        "added_latency_p99_s": _number(kind.added_quantile_s(0.99)),
    }


def _benign(kinds: Sequence[Kind]) -> Kind:
    return next(kind for kind in kinds if not kind.attack)


def _number(value: float) -> float | None:
    """JSON has no NaN."""
    return value if math.isfinite(value) else None
