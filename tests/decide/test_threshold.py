"""The rate that was asked for holds over all inputs, and doubled for each kind of them, by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from guard import stats
from guard.decide.threshold import TIMES, held_for, p_value_threshold
from guard.values import Float64Array, IntArray

N, RUNS, RATE = 1200, 300, 0.05
SHARES = np.array([0.5, 0.3, 0.2])
SHIFTS = np.array([0.0, -1.0, 0.8])
"""Of three kinds of inputs: the second is never suspicious, and the third often."""


def draws(rng: np.random.Generator, n: int = N) -> tuple[Float64Array, IntArray]:
    """Combined scores and groups of benign inputs."""
    groups = rng.choice(len(SHARES), size=n, p=SHARES)
    return rng.normal(SHIFTS[groups]), groups


def true_rates(combined: Float64Array, threshold: float) -> Float64Array:
    """The share of each kind of fresh inputs that are flagged, (kinds,)."""
    benign = np.sort(combined)
    flagged = round(threshold * (len(benign) + 1))  # an input is, if fewer than that many benign ones score as high
    return norm.sf(benign[-flagged] - SHIFTS)


@pytest.mark.parametrize("confidence", [None, 0.95])
def test_no_kind_is_flagged_more_than_twice_as_often(confidence: float | None) -> None:
    """On average over draws, or in 95 % of them; without groups the third kind pays for the others."""
    rng = np.random.default_rng(0)
    alone, grouped = [], []
    for _ in range(RUNS):
        combined, groups = draws(rng)
        alone.append(true_rates(combined, p_value_threshold(combined, None, RATE, confidence)))
        grouped.append(true_rates(combined, p_value_threshold(combined, groups, RATE, confidence)))
    if confidence is None:
        kept = np.mean(grouped, axis=0)
        assert np.mean(alone, axis=0)[2] > 1.3 * TIMES * RATE
        assert kept[2] == pytest.approx(TIMES * RATE, abs=0.01)
        assert kept @ SHARES < RATE
    else:
        assert (np.array(alone)[:, 2] > TIMES * RATE).mean() > 0.5
        assert (np.array(grouped)[:, 2] > TIMES * RATE).mean() <= 0.08
        assert np.mean(grouped, axis=0)[2] > 0.5 * TIMES * RATE


def test_the_limit_of_a_kind_is_exact() -> None:
    """An input is flagged if and only if its p-value is, among all inputs and doubled among those of each kind."""
    rng = np.random.default_rng(1)
    combined, groups = draws(rng)
    combined = np.round(combined, 2)  # so that many are the same
    threshold = p_value_threshold(combined, groups, RATE)
    parts = [np.sort(combined), *(np.sort(combined[groups == each]) for each in range(len(SHARES)))]
    for score in np.arange(0, 4, 0.01).round(2):
        of_all, *of_kinds = (stats.conformal_p_value(part, float(score)) for part in parts)
        wanted = of_all <= RATE and all(each <= TIMES * RATE for each in of_kinds)
        assert (of_all <= threshold) is wanted, score


def test_like_kinds_change_nothing() -> None:
    """Where all are flagged alike the rate is what it is without them."""
    combined = np.random.default_rng(2).normal(size=N)
    groups = np.arange(N) % 3
    assert p_value_threshold(combined, groups, RATE) == p_value_threshold(combined, None, RATE)


def test_kinds_of_which_there_are_few_are_left_out() -> None:
    """A limit drawn from a handful would cost what it can't protect."""
    combined, groups = draws(np.random.default_rng(3), n=150)
    assert not held_for(groups, RATE)
    combined[groups == 2] += 10
    assert p_value_threshold(combined, groups, RATE) == p_value_threshold(combined, None, RATE)
    few = np.zeros(100, np.int64)
    assert held_for(few, RATE)
    assert held_for(few, RATE, 0.95)
    assert not held_for(few, RATE, 0.99999), "not one of a hundred could be flagged"
    assert p_value_threshold(combined, np.zeros(150, np.int64), RATE, 0.99) <= RATE
    assert not held_for(np.zeros(99, np.int64), RATE)
    assert not held_for(None, RATE)
    assert p_value_threshold(combined, groups, 0.5) == p_value_threshold(combined, None, 0.5), "no rate above 1"


def test_a_kind_is_kept_beside_one_that_is_too_small() -> None:
    """Each by itself: of a hundred and more suspicious inputs one in ten is flagged, of forty as many as it takes."""
    combined = np.arange(1000.0)
    top = np.arange(1000) >= 880
    kept = p_value_threshold(combined, top.astype(np.int64), RATE)
    assert kept == pytest.approx((1 + 11) / 1001)
    small = np.where(np.arange(1000) >= 960, 1, 0)
    assert p_value_threshold(combined, small, RATE) == p_value_threshold(combined, None, RATE)
