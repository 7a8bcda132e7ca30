"""What the demo shows at its end: the table for people, and the same as JSON for machines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from guard import __version__
from guard.demo.traffic import Kind

TARGET_CAUGHT = 0.9
STABLE_BUDGET = 24
_SHARED = ("sensitivity_gaussian", "smoothing")


def show(console: Console, kinds: Sequence[Kind], *, asked: float, accuracy: float) -> None:
    """Print the table, the false-positive rate and what a stable input costs."""
    table = Table(title="What became of it (one image a request, stock tritonclient, mode: enforce)")
    for heading in ("traffic", "requests", "forwarded", "flagged", "rejected", "caught, 95 % interval"):
        table.add_column(heading, justify="left" if heading == "traffic" else "right")
    for heading in ("evaluations\na request", "added latency\np50", "\np99"):
        table.add_column(heading, justify="right")
    for kind in kinds:
        low, high = kind.caught_interval
        table.add_row(
            kind.name,
            str(kind.requests),
            *(str(kind.outcomes[outcome]) for outcome in ("forwarded", "flagged", "rejected")),
            f"{kind.caught / max(kind.requests, 1):.1%} [{low:.1%}, {high:.1%}]" if kind.attack else "",
            f"{kind.mean_evaluations:.1f}",
            f"{1000 * kind.added_quantile_s(0.5):.1f} ms",
            f"{1000 * kind.added_quantile_s(0.99):.1f} ms",
            style="" if not kind.attack or _reached(kind) else "yellow",
        )
    console.print(table)
    benign = _benign(kinds)
    low, high = benign.caught_interval
    cost = benign.evaluations_for(*_SHARED)
    held = "holds" if low <= asked else "EXCEEDED"
    share = np.mean(cost <= STABLE_BUDGET)
    lines = [
        f"The model is right on {accuracy:.1%} of held-out digits; only attacks that made it wrong were sent.",
        f"False-positive rate: asked {asked:.1%}, measured {benign.caught / benign.requests:.1%}"
        f" [{low:.1%}, {high:.1%}] on {benign.requests} held-out digits: {held}.",
        f"A stable digit costs {np.median(cost):.0f} evaluations for sensitivity and certificate together"
        f" (median; {share:.0%} of held-out digits cost at most {STABLE_BUDGET}).",
    ]
    missed = [kind.name for kind in kinds if kind.attack and not _reached(kind)]
    if missed:
        lines.append(f"Below {TARGET_CAUGHT:.0%} caught, in yellow: {', '.join(missed)}.")
    console.print("\n".join(lines), highlight=False)


def as_json(kinds: Sequence[Kind], *, asked: float, accuracy: float, seed: int) -> dict[str, Any]:
    """The same, for machines."""
    benign = _benign(kinds)
    cost = benign.evaluations_for(*_SHARED)
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
        "stable_evaluations": {
            "median": float(np.median(cost)),
            "share_within_budget": float(np.mean(cost <= STABLE_BUDGET)),
            "budget": STABLE_BUDGET,
        },
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
        "reaches_target": _reached(kind) if kind.attack else None,
        "mean_evaluations": kind.mean_evaluations,
        "added_latency_p50_s": kind.added_quantile_s(0.5),
        "added_latency_p99_s": kind.added_quantile_s(0.99),
    }


def _benign(kinds: Sequence[Kind]) -> Kind:
    return next(kind for kind in kinds if not kind.attack)


def _reached(kind: Kind) -> bool:
    return kind.requests > 0 and kind.caught / kind.requests >= TARGET_CAUGHT
