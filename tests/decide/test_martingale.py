"""Martingales: fair bets under the claim, whatever was seen before, and rich ones without it."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from scipy.stats import binomtest

from guard.decide.martingale import Martingales
from guard.values import DriftDirection

N = 99
FIRST = np.array([0])
ALONE = np.array([1.0])


def martingale(*, n: int = N, rows: int = 1, most: float = 1e9) -> Martingales:
    """Martingales of which the upper hundredth of the scores is flagged."""
    return Martingales(rows, n=n, flagged=max(1, (n + 1) // 100), most=most)


@pytest.mark.parametrize("shown", [0, 60])
@pytest.mark.parametrize("n", [1, 7, 99])
def test_bets_are_fair(n: int, shown: int) -> None:
    """Over where the next item may fall, with the odds of Polya's urn, capital stays what it is on average."""
    rng = np.random.default_rng(n + shown)
    before = martingale(n=n, most=np.inf)
    seen = np.ones(n + 1)
    for gap in rng.integers(0, n // 2 + 1, shown):  # not what the claim says, so that capital is far from 1
        before.show(int(gap), FIRST)
        seen[gap] += 1
    after = []
    for gap in range(n + 1):
        tried = copy.deepcopy(before)
        tried.show(gap, FIRST)
        after.append(tried.capital[0])
    assert np.dot(seen / seen.sum(), after) == pytest.approx(before.capital[0], rel=1e-9)
    assert shown == 0 or before.capital[0] != pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize(
    ("low", "high", "direction"),
    [
        (0.0, 0.2, DriftDirection.MORE_EXTREME),
        (0.2, 0.4, DriftDirection.MORE_EXTREME),
        (0.4, 0.6, DriftDirection.MORE_ALIKE),
        (0.8, 1.0, DriftDirection.LESS_EXTREME),
    ],
)
def test_a_change_makes_rich(low: float, high: float, direction: DriftDirection) -> None:
    """After a long time without a change, a hundred p-values out of one fifth make a million, and say which fifth."""
    rng = np.random.default_rng(0)
    found = martingale()
    for gap in (rng.permutation(2000) % (N + 1)).tolist():
        found.show(gap, FIRST)
    assert 0.1 < found.capital[0] < 10
    for gap in rng.integers(round(low * N), round(high * N), 100).tolist():
        found.show(gap, FIRST)
    assert found.capital[0] > 1e6
    assert found.direction(ALONE) is direction


def test_one_calibration_set_is_not_the_truth() -> None:
    """A small calibration set that lies high is no drift, though all p-values of the stream are then large.

    A martingale that takes p-values of one calibration set for independent finds 'drift' in a third of such streams.
    """
    rng = np.random.default_rng(1)
    alarms, runs = 0, 60
    for _ in range(runs):
        benign = np.sort(rng.normal(size=30))
        found = martingale(n=len(benign))
        richest = 0.0
        for above in (len(benign) - np.searchsorted(benign, rng.normal(size=600))).tolist():
            found.show(above, FIRST)
            richest = max(richest, float(found.capital[0]))
        alarms += richest >= 20
    assert binomtest(alarms, runs, 1 / 20, alternative="greater").pvalue > 1e-3


def test_flagged_is_flagged() -> None:
    """How extreme a flagged item is makes no difference: an attack is not worth more than it counts."""
    capital = []
    for gap in (0, 9):
        found = Martingales(1, n=N, flagged=10, most=1e9)
        for _ in range(20):
            found.show(gap, FIRST)
        capital.append(found.capital[0])
    assert capital[0] == capital[1]


def test_only_what_is_shown_counts() -> None:
    """A martingale that an item is not shown to stays as it is."""
    found = martingale(rows=3)
    for _ in range(50):
        found.show(0, np.array([0, 2]))
    assert found.capital[0] == found.capital[2] > 1e3
    assert found.capital[1] == 1


def test_capital_is_bounded() -> None:
    """However long a change lasts, no bet makes more than it may."""
    found = martingale(most=1e6)
    for _ in range(100):
        found.show(0, FIRST)
    assert 1e6 <= found.capital[0] < 1e7


def test_restart() -> None:
    """After a restart it is as if nothing had been shown."""
    found, fresh = martingale(), martingale()
    for gap in (0, 3, 50, 0, 0):
        found.show(gap, FIRST)
    found.restart()
    for each in (found, fresh):
        each.show(7, FIRST)
    assert found.capital[0] == fresh.capital[0]
