"""Error rates of the sequential tests, by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats as distributions

from guard import stats
from guard.stats import Sprt
from guard.values import IntArray

RUNS = 20_000
SIGNIFICANCE = 1e-4
"""A correct test fails here once in ten thousand seeds, and the seeds are fixed."""


def exceeds(errors: int, rate: float) -> bool:
    """Whether so many errors refute that the rate of errors is `rate` or less."""
    return bool(distributions.binomtest(errors, RUNS, rate, alternative="greater").pvalue < SIGNIFICANCE)


def wald_ends(kappa: float, batch: int, *, p0: float, p1: float, alpha: float, beta: float) -> IntArray:
    """The decision of each run, looked for after every batch: 1 for stable, 2 for sensitive."""
    rng = np.random.default_rng(7)
    changes, ends = np.zeros(RUNS, dtype=np.int64), np.zeros(RUNS, dtype=np.int64)
    n = 0
    while (alive := ends == Sprt.UNDECIDED.value).any():
        n += batch
        changes[alive] += rng.binomial(batch, kappa, alive.sum())
        for count in np.unique(changes[alive]):
            state = stats.wald_decision(int(count), n, p0=p0, p1=p1, alpha=alpha, beta=beta)
            ends[alive & (changes == count)] = state.value
    return ends


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize(
    "design",
    [
        {"p0": 0.02, "p1": 0.2, "alpha": 0.01, "beta": 0.05},
        {"p0": 0.1, "p1": 0.2, "alpha": 0.05, "beta": 0.05},
        {"p0": 0.25, "p1": 0.5, "alpha": 0.02, "beta": 0.1},
    ],
    ids=lambda design: f"{design['p0']}-{design['p1']}",
)
def test_wald_errors(design: dict[str, float], batch: int) -> None:
    """Wald's test errs at most alpha of the time on stable inputs, and beta of the time on sensitive ones."""
    false_alarms = int((wald_ends(design["p0"], batch, **design) == Sprt.SENSITIVE.value).sum())
    misses = int((wald_ends(design["p1"], batch, **design) == Sprt.STABLE.value).sum())
    assert not exceeds(false_alarms, design["alpha"])
    assert not exceeds(misses, design["beta"])
    # ... and not because it never errs: the bounds are nearly spent where there is a look after every copy.
    assert batch > 1 or (false_alarms > 0.3 * design["alpha"] * RUNS and misses > 0.6 * design["beta"] * RUNS)


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize(("k0", "alpha"), [(0.3085, 0.05), (0.1587, 0.01), (0.5, 0.05), (0.02, 0.05)])
def test_false_certificates(k0: float, alpha: float, batch: int) -> None:
    """At kappa = k0, stopping as soon as it looks proved, a certificate is false at most alpha of the time.

    So it is on the other side, where a radius is called lost.
    """
    looks = 512 // batch
    changes = np.random.default_rng(11).binomial(batch, k0, (RUNS, looks)).cumsum(axis=1)
    threshold = -math.log(alpha)
    proved, lost = np.zeros(RUNS, dtype=bool), np.zeros(RUNS, dtype=bool)
    for look in range(looks):
        n = (look + 1) * batch
        counts = np.arange(changes[:, look].max() + 1)
        below = np.array([stats.log_e_value_below(int(c), n, k0) >= threshold for c in counts])
        above = np.array([stats.log_e_value_above(int(c), n, k0) >= threshold for c in counts])
        proved |= below[changes[:, look]]
        lost |= above[changes[:, look]]
    assert not exceeds(int(proved.sum()), alpha)
    assert not exceeds(int(lost.sum()), alpha)
    assert proved.sum() + lost.sum() > 0.1 * alpha * RUNS  # it does err, as a test with power must


@pytest.mark.parametrize("kappa", [0.05, 0.3])
def test_upper_bound_at_its_worst_moment(kappa: float) -> None:
    """The anytime bound is above kappa at all of 200 looks at once, but for alpha of the runs."""
    runs, alpha = RUNS // 10, 0.05
    changes = np.random.default_rng(13).binomial(1, kappa, (runs, 200)).cumsum(axis=1)
    missed = np.zeros(runs, dtype=bool)
    for n in range(1, 201):
        counts, where = np.unique(changes[:, n - 1], return_inverse=True)
        bounds = np.array([stats.anytime_upper_bound(int(c), n, alpha) for c in counts])
        missed |= (bounds < kappa)[where]
    assert distributions.binomtest(int(missed.sum()), runs, alpha, alternative="greater").pvalue > SIGNIFICANCE
