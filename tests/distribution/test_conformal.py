"""Conformal p-values and the false-positive rate they promise, by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats as distributions

from guard import stats
from guard.values import Float64Array

SIGNIFICANCE = 1e-4


def p_values(draws: Float64Array) -> Float64Array:
    """P-value of the last score of each row against the others: (rows,)."""
    return np.array([stats.conformal_p_value(np.sort(row[:-1]), float(row[-1])) for row in draws])


def test_uniform_without_ties() -> None:
    """The p-value of a benign score is uniform over 1 / (n + 1), ..., 1."""
    n = 99
    found = p_values(np.random.default_rng(3).normal(size=(20_000, n + 1)))
    ranks = np.rint(found * (n + 1)).astype(int)
    np.testing.assert_allclose(ranks / (n + 1), found)
    assert (ranks.min(), ranks.max()) == (1, n + 1)
    assert distributions.chisquare(np.bincount(ranks, minlength=n + 2)[1:]).pvalue > SIGNIFICANCE
    jitter = np.random.default_rng(4).uniform(size=len(found)) / (n + 1)
    assert distributions.kstest(found - jitter, "uniform").pvalue > SIGNIFICANCE


@pytest.mark.parametrize("levels", [1, 2, 5])
def test_super_uniform_with_ties(levels: int) -> None:
    """Ties only make p-values larger: P(p <= t) <= t at every t."""
    draws = np.random.default_rng(5).integers(0, levels, size=(20_000, 60)).astype(np.float64)
    found = p_values(draws)
    assert distributions.kstest(found, "uniform", alternative="greater").pvalue > SIGNIFICANCE
    assert levels > 1 or (found == 1).all()


def realised_rates(n: int, threshold: float, runs: int) -> Float64Array:
    """The true rate of flagging uniform scores, in each of many draws of n benign ones: (runs,)."""
    benign = np.sort(np.random.default_rng(9).uniform(size=(runs, n)))
    realised = np.empty(runs)
    for run, scores in enumerate(benign):
        # The p-value only falls just above a benign score, so flagging starts above one of the highest.
        highest = scores[-round(threshold * (n + 1)) - 2 :]
        flagged = [s for s in highest if stats.conformal_p_value(scores, float(np.nextafter(s, 1))) <= threshold]
        realised[run] = 1 - min(flagged, default=1.0)
    return realised


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.2])
@pytest.mark.parametrize("n", [59, 300, 718])
def test_false_positive_rate_holds_with_confidence(n: int, rate: float) -> None:
    """With 95 % confidence asked for, the rate is kept in at least 95 % of draws of the calibration set."""
    runs = 4000
    threshold = stats.p_value_threshold(n, rate, 0.95)
    realised = realised_rates(n, threshold, runs)
    broken = int((realised > rate).sum())
    assert distributions.binomtest(broken, runs, 0.05, alternative="greater").pvalue > SIGNIFICANCE
    assert (threshold == 0) is (n < stats.samples_needed(rate, 0.95))
    assert threshold == 0 or realised.mean() > 0.2 * rate  # a rate kept by flagging nothing would be no feat


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.2])
@pytest.mark.parametrize("n", [59, 300, 718])
def test_false_positive_rate_holds_on_average(n: int, rate: float) -> None:
    """Otherwise it is kept on average over draws, and 95 % of draws have their true rate in the interval told."""
    runs = 4000
    threshold = stats.p_value_threshold(n, rate)
    realised = realised_rates(n, threshold, runs)
    assert realised.mean() <= rate + 4 * realised.std() / np.sqrt(runs)
    assert threshold == 0 or realised.mean() >= rate - 1 / (n + 1) - 4 * realised.std() / np.sqrt(runs)
    low, high = stats.true_rate_interval(n, threshold)
    covered = int(((low <= realised) & (realised <= high)).sum())
    assert threshold == 0 or distributions.binomtest(covered, runs, 0.95).pvalue > SIGNIFICANCE
