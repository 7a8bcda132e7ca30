"""The arithmetic of the demo's report, on traffic made up by hand."""

from __future__ import annotations

import io
import json
from collections import Counter

import pytest
from rich.console import Console

from guard.demo.report import as_json, show
from guard.demo.stable import Noisy
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


def benign(*, caught: int = 2, of: int = 100, unstable: int = 0, stable_cost: int = 15) -> Kind:
    """Benign traffic of which some was rejected; of unstable images, which come first, each request cost 40."""
    made = kind("benign", attack=False, forwarded=of - caught, rejected=caught)
    made.noisy = [Noisy(copies=40, changes=9)] * unstable + [Noisy(copies=stable_cost, changes=0)] * (of - unstable)
    made.evaluations = [
        {"label": 1.0, "squeezing": 3.0, "sensitivity_gaussian": noisy.copies - 5.0, "smoothing": 5.0}
        for noisy in made.noisy
    ]
    return made


def lines(*kinds: Kind) -> list[str]:
    """The report's lines on a terminal of 80 columns."""
    console = Console(file=io.StringIO(), width=80)
    show(console, kinds, asked=0.05, accuracy=0.98)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def shown(*kinds: Kind) -> str:
    """The report as text, its line breaks taken out."""
    return " ".join(" ".join(lines(*kinds)).split())


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


def test_each_row_has_its_own_target() -> None:
    """Each strength of an attack is judged alone: a weak one that is missed is marked in words, in its own row.

    That nearly all is caught over all strengths, or that the interval reaches the target, doesn't help it.
    """
    rows = (
        kind("PGD, L-inf 0.1", forwarded=11, flagged=40, rejected=49),
        kind("PGD, L-inf 0.2", rejected=150),
        kind("PGD, L-inf 0.3", forwarded=10, rejected=90),
        kind("JSMA, gamma 0.12"),
    )
    report = lines(benign(), *rows)
    first, second, third, nothing = (
        next(i for i, line in enumerate(report) if line.startswith(f" {row.name}")) for row in rows
    )
    assert "89.0% [81, 94]" in report[first]
    assert report[first + 1].split() == ["BELOW", "90%"]
    assert (second, third, nothing) == (first + 2, first + 3, first + 4)  # no mark between them
    assert "".join(report).count("BELOW") == 1
    assert "…" not in "".join(report)
    results = as_json([benign(), *rows], asked=0.05, accuracy=0.98, seed=0)["traffic"]
    assert [row["reaches_target"] for row in results] == [None, False, True, True, None]


def test_stable_digits() -> None:
    """What the costliest stable digit costs is shown beside what was promised, whatever the unstable ones cost."""
    report = shown(benign(unstable=12, stable_cost=24))
    assert "88 of 100 held-out digits are stable: no noisy copy had another label." in report
    assert "together cost at most 24 evaluations for each of these; 24 were promised: kept." in report
    assert "88% of all held-out digits cost 24 or fewer." in report


def test_costly_stable_digits() -> None:
    """One stable digit that costs more than was promised is admitted."""
    costly = benign(unstable=12, stable_cost=16)
    costly.evaluations[50] = {"sensitivity_gaussian": 16.0, "smoothing": 9.0}
    assert "cost at most 25 evaluations for each of these; 24 were promised: EXCEEDED." in shown(costly)
    stable = as_json([costly], asked=0.05, accuracy=0.98, seed=0)["stable_evaluations"]
    assert (stable["maximum"], stable["kept"]) == (25.0, False)


def test_no_stable_digit() -> None:
    """Where noise moves every label there is no cost to show, and nothing is said to be kept."""
    report = shown(benign(unstable=100))
    assert "0 of 100 held-out digits are stable" in report
    assert "promised" not in report
    stable = as_json([benign(unstable=100)], asked=0.05, accuracy=0.98, seed=0)["stable_evaluations"]
    assert (stable["stable"], stable["maximum"], stable["kept"]) == (0, None, None)


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
    assert result["stable_evaluations"] == {
        "promised": 24,
        "stable": 100,
        "requests": 100,
        "maximum": 15.0,
        "kept": True,
        "share_of_all_within": 1.0,
    }
    first, empty = result["traffic"]
    assert (first["kind"], first["requests"], first["forwarded"], first["rejected"]) == ("benign", 100, 98, 2)
    assert first["added_latency_p50_s"] == pytest.approx(0.0505)
    assert (empty["attempts"], empty["requests"]) == (150, 0)
    assert [empty[key] for key in ("caught", "reaches_target", "mean_evaluations", "added_latency_p99_s")] == [None] * 4
