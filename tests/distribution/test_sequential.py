"""Error rates of the sequential tests, by simulation through the tables that screening stops by."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from scipy import stats as distributions

from guard import stats
from guard.screen.boundaries import START, Boundaries, Stop, anytime, fixed, wald

RUNS = 20_000
CHUNK = 400
SIGNIFICANCE = 1e-4
"""A correct test fails here once in ten thousand seeds, and the seeds are fixed."""


def exceeds(errors: int, rate: float) -> bool:
    """Whether so many errors refute that the rate of errors is `rate` or less."""
    return bool(distributions.binomtest(errors, RUNS, rate, alternative="greater").pvalue < SIGNIFICANCE)


def ends(tables: Boundaries, kappa: float, seed: int) -> Counter[Stop]:
    """How runs at this label-change rate end. How copies are cut into chunks changes nothing: see test_boundaries."""
    changed = np.random.default_rng(seed).uniform(size=(RUNS, tables.cap)) < kappa
    found: Counter[Stop] = Counter()
    for run in changed:
        step, at = START, 0
        while step.stop is Stop.OPEN:
            step = tables.walk(step, run[at : at + CHUNK])
            at += CHUNK
        found[step.stop] += 1
    return found


@pytest.mark.parametrize(
    "design",
    [
        {"p0": 0.02, "p1": 0.2, "alpha": 0.01, "beta": 0.05},
        {"p0": 0.1, "p1": 0.2, "alpha": 0.05, "beta": 0.05},
        {"p0": 0.25, "p1": 0.5, "alpha": 0.02, "beta": 0.1},
    ],
    ids=lambda design: f"{design['p0']}-{design['p1']}",
)
def test_wald_errors(design: dict[str, float]) -> None:
    """Wald's test errs no more than it says, alpha if stable and beta if sensitive.

    His own bounds are a little wider, alpha / (1 - beta) and beta / (1 - alpha), but a walk on whole numbers oversteps
    its boundaries. The cap is so far off that it takes part in nothing.
    """
    tables, alpha, beta = wald(**design, cap=640), design["alpha"], design["beta"]
    stable, sensitive = ends(tables, design["p0"], seed=7), ends(tables, design["p1"], seed=8)
    assert stable[Stop.CAP] + sensitive[Stop.CAP] < 1e-3 * RUNS
    assert not exceeds(stable[Stop.SENSITIVE], alpha)
    assert not exceeds(sensitive[Stop.STABLE], beta)
    # ... and not because it never errs: most of what the bounds allow is spent.
    assert stable[Stop.SENSITIVE] > 0.3 * alpha * RUNS
    assert sensitive[Stop.STABLE] > 0.6 * beta * RUNS


def test_wald_truncated() -> None:
    """The cap only takes errors away, and leaves most inputs of either kind decided."""
    design = {"p0": 0.02, "p1": 0.2, "alpha": 0.01, "beta": 0.05}
    tables = wald(**design, cap=64)
    stable, sensitive = ends(tables, 0.02, seed=7), ends(tables, 0.2, seed=8)
    assert not exceeds(stable[Stop.SENSITIVE], 0.01)
    assert not exceeds(sensitive[Stop.STABLE], 0.05)
    assert stable[Stop.STABLE] > 0.95 * RUNS
    assert sensitive[Stop.SENSITIVE] > 0.9 * RUNS


@pytest.mark.parametrize(("k0", "alpha"), [(0.3085, 0.001), (0.3085, 0.05), (0.1587, 0.01), (0.5, 0.05), (0.02, 0.05)])
def test_false_certificates(k0: float, alpha: float) -> None:
    """At kappa = k0, stopping as soon as it looks proved, a certificate is false at most alpha of the time.

    So it is on the other side, where a radius is called lost.
    """
    found = ends(anytime(k0, alpha, 400), k0, seed=11)
    assert not exceeds(found[Stop.STABLE], alpha)
    assert not exceeds(found[Stop.SENSITIVE], alpha)
    assert found[Stop.STABLE] + found[Stop.SENSITIVE] > 0.1 * alpha * RUNS  # it does err, as a test with power must


@pytest.mark.parametrize(("k0", "alpha", "cap"), [(0.3085, 0.05, 60), (0.1587, 0.01, 200), (0.02, 0.05, 400)])
def test_false_certificates_of_one_look(k0: float, alpha: float, cap: int) -> None:
    """So it is for the test that looks once, at the cap, which finds nothing lost."""
    found = ends(fixed(k0, alpha, cap), k0, seed=12)
    assert not exceeds(found[Stop.STABLE], alpha)
    assert set(found) == {Stop.STABLE, Stop.CAP}
    assert found[Stop.STABLE] > 0.1 * alpha * RUNS


@pytest.mark.parametrize("kappa", [0.05, 0.3])
def test_upper_bound_at_its_worst_moment(kappa: float) -> None:
    """The anytime bound is above kappa at all of 84 looks at 200 copies at once, but for alpha of the runs."""
    runs, alpha = RUNS // 10, 0.05
    changes = np.random.default_rng(13).binomial(1, kappa, (runs, 200)).cumsum(axis=1)
    missed = np.zeros(runs, dtype=bool)
    for n in [*range(1, 46), *range(48, 201, 4)]:
        counts, where = np.unique(changes[:, n - 1], return_inverse=True)
        # No bound is below the rate that was seen: those that can't miss need not be computed.
        bounds = np.array([stats.anytime_upper_bound(int(c), n, alpha) if c < kappa * n else 1.0 for c in counts])
        missed |= (bounds < kappa)[where]
    assert distributions.binomtest(int(missed.sum()), runs, alpha, alternative="greater").pvalue > SIGNIFICANCE
    assert missed.sum() > 0.1 * alpha * runs
