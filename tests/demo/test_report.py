"""The arithmetic of the demo's report, on traffic made up by hand."""

from __future__ import annotations

import io
import json
from collections import Counter

import pytest
from rich.console import Console

from guard.demo.report import as_json, show
from guard.demo.traffic import Kind


def kind(name: str = "FGSM", *, attack: bool = True, forwarded: int = 0, flagged: int = 0, rejected: int = 0) -> Kind:
    """Traffic of these outcomes; request i took i + 1 ms more, and 1, 10 and 5 evaluations."""
    outcomes = Counter(forwarded=forwarded, flagged=flagged, rejected=rejected)
    n = outcomes.total()
    return Kind(
        name,
        attack=attack,
        outcomes=outcomes,
        added_s=[(i + 1) / 1000 for i in range(n)],
        evaluations=[{"label": 1.0, "sensitivity_gaussian": 10.0, "smoothing": 5.0} for _ in range(n)],
        attempts=150 if attack else None,
    )


def benign(*, caught: int = 2, of: int = 100) -> Kind:
    """Benign traffic of which some was rejected."""
    return kind("benign", attack=False, forwarded=of - caught, rejected=caught)


def shown(*kinds: Kind) -> str:
    """The report as text, its line breaks taken out."""
    console = Console(file=io.StringIO(), width=100)
    show(console, kinds, asked=0.05, accuracy=0.98)
    assert isinstance(console.file, io.StringIO)
    return " ".join(console.file.getvalue().split())


def test_kind() -> None:
    """Flagged and rejected are caught, forwarded are not; means and quantiles are over requests."""
    some = kind(forwarded=1, flagged=3, rejected=5)
    assert (some.requests, some.caught, some.mean_evaluations) == (9, 8, 16.0)
    assert some.added_quantile_s(0.5) == pytest.approx(0.005)
    assert some.evaluations_for("sensitivity_gaussian", "smoothing").tolist() == [15.0] * 9
    assert some.evaluations_for("squeezing").tolist() == [0.0] * 9
    assert some.caught_interval == pytest.approx((0.5175, 0.9972), abs=1e-4)  # Clopper and Pearson, 8 of 9


@pytest.mark.parametrize(
    ("traffic", "reaches"),
    [
        (kind(forwarded=1, rejected=9), True),
        (kind(forwarded=1, flagged=9), True),
        (kind(forwarded=2, rejected=8), False),
        (kind(forwarded=101, rejected=899), False),
        (kind(), None),
        (benign(caught=100), None),
    ],
)
def test_target(traffic: Kind, reaches: bool | None) -> None:  # noqa: FBT001 - a table's column
    """Nine in ten reach the target; benign traffic and an attack that made nothing have none to reach."""
    assert traffic.reaches_target is reaches


def test_missed_attacks_are_named() -> None:
    """The attacks below the target are named, and only those."""
    weak, strong, nothing = kind("PGD, weak", forwarded=5, rejected=5), kind("FGSM", rejected=5), kind("JSMA")
    assert "Caught less than 90%: PGD, weak." in shown(benign(), strong, weak, nothing)
    assert "Caught less" not in shown(benign(), strong, nothing)


def test_false_positive_rate() -> None:
    """The rate holds while its interval reaches down to the one asked for; beyond that the report says EXCEEDED."""
    assert "asked 5.0%, measured 8.0% [3.5%, 15.2%] on 100 held-out digits: consistent with it." in shown(
        benign(caught=8)
    )
    assert "measured 12.0% [6.4%, 20.0%] on 100 held-out digits: EXCEEDED." in shown(benign(caught=12))


def test_json() -> None:
    """What machines read has the same numbers, and stays JSON where an attack made nothing."""
    result = as_json([benign(), kind("JSMA")], asked=0.05, accuracy=0.98, seed=3)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert (result["seed"], result["model_accuracy"]) == (3, 0.98)
    rate = result["false_positive_rate"]
    assert (rate["asked"], rate["measured"], rate["requests"]) == (0.05, 0.02, 100)
    assert result["stable_evaluations"] == {"median": 15.0, "share_within_budget": 1.0, "budget": 24}
    first, empty = result["traffic"]
    assert (first["kind"], first["requests"], first["forwarded"], first["rejected"]) == ("benign", 100, 98, 2)
    assert first["added_latency_p50_s"] == pytest.approx(0.0505)
    assert (empty["attempts"], empty["requests"]) == (150, 0)
    assert [empty[key] for key in ("caught", "reaches_target", "mean_evaluations", "added_latency_p99_s")] == [None] * 4
