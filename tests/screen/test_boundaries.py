"""The tables that sequential tests stop by, against a plain reading of each rule, copy by copy."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
from scipy import stats as distributions

from guard import stats
from guard.screen.boundaries import START, Boundaries, Step, Stop, anytime, fixed, wald
from guard.stats import Sprt

DESIGNS = 80
STREAMS = 125  # for each design: 10,000 in all
_SPRT = {Sprt.UNDECIDED: Stop.OPEN, Sprt.STABLE: Stop.STABLE, Sprt.SENSITIVE: Stop.SENSITIVE}


@dataclass(frozen=True)
class Design:
    """A rule: as tables, and as a function of changes and copies that is read after every copy."""

    name: str
    tables: Boundaries
    rule: Callable[[int, int], Stop]

    @property
    def cap(self) -> int:
        """Copies after which it is truncated."""
        return self.tables.cap

    def read(self, changed: list[bool]) -> Step:
        """Where it stands after these copies, looked at after each until it stops."""
        changes = 0
        for n, change in enumerate(changed[: self.cap], start=1):
            changes += change
            stop = self.rule(changes, n)
            if stop is Stop.OPEN and n == self.cap:
                stop = Stop.CAP
            if stop is not Stop.OPEN:
                return Step(n, changes, stop)
        return Step(len(changed), changes, Stop.OPEN)


def wald_design(p0: float, p1: float, alpha: float, beta: float, cap: int) -> Design:
    """Wald's test."""

    @cache
    def rule(changes: int, n: int) -> Stop:
        return _SPRT[stats.wald_decision(changes, n, p0=p0, p1=p1, alpha=alpha, beta=beta)]

    return Design(f"wald {p0:.4f} {p1:.4f} {alpha:.4f} {beta:.4f} {cap}", wald(p0, p1, alpha, beta, cap), rule)


def anytime_design(k0: float, alpha: float, cap: int) -> Design:
    """The e-processes on both sides of k0."""
    threshold = -math.log(alpha)

    @cache
    def rule(changes: int, n: int) -> Stop:
        if stats.log_e_value_below(changes, n, k0) >= threshold:
            return Stop.STABLE
        return Stop.SENSITIVE if stats.log_e_value_above(changes, n, k0) >= threshold else Stop.OPEN

    return Design(f"anytime {k0:.4f} {alpha:.4f} {cap}", anytime(k0, alpha, cap), rule)


def fixed_design(k0: float, alpha: float, cap: int) -> Design:
    """One look, at the cap."""

    @cache
    def rule(changes: int, n: int) -> Stop:
        proved = n == cap and stats.clopper_pearson_upper(changes, cap, alpha) < k0
        return Stop.STABLE if proved else Stop.OPEN

    return Design(f"fixed {k0:.4f} {alpha:.4f} {cap}", fixed(k0, alpha, cap), rule)


def designs() -> Iterator[Design]:
    """Random ones of all three rules, from the tame to the silly."""
    rng = np.random.default_rng(17)
    for number in range(DESIGNS):
        cap = int(rng.integers(1, 5)) if number % 10 == 0 else int(rng.integers(5, 100))
        alpha, beta = np.exp(rng.uniform(math.log(1e-4), math.log(0.49), 2)).tolist()
        p0, p1 = sorted(rng.uniform(0.001, 0.999, 2).tolist())
        k0 = float(rng.choice([rng.uniform(0.001, 0.6), rng.uniform(0.001, 0.999), 1e-12]))
        yield (
            wald_design(p0, p1, alpha, beta, cap)
            if number % 2
            else (anytime_design if number % 4 else fixed_design)(k0, alpha, cap)
        )


ALL = tuple(designs())


def walk(tables: Boundaries, step: Step, changed: list[bool]) -> Step:
    """Walk on, with the shortcut for copies of which none changed, which must change nothing."""
    copies = np.array(changed, dtype=np.bool_)
    there = tables.walk(step, copies)
    assert any(changed) or tables.walk(step, copies, none=True) == there
    return there


def in_chunks(tables: Boundaries, changed: list[bool], chunks: Iterable[int]) -> Step:
    """Walk to the stop, or to the end of the stream, chunk by chunk."""
    step, at = START, 0
    for size in chunks:
        if step.stop is not Stop.OPEN or at >= len(changed):
            break
        step = walk(tables, step, changed[at : at + size])
        at += size
    return step


@pytest.mark.parametrize("design", ALL, ids=lambda design: design.name)
def test_as_the_rule_reads(design: Design) -> None:
    """However a stream is cut, the walk ends where the rule, read after every copy, first holds, and at the cap."""
    rng = np.random.default_rng(design.cap)
    stops = set()
    for _ in range(STREAMS):
        kappa = float(rng.choice([rng.uniform(), rng.uniform(0, 0.1), 0.0, 1.0]))
        changed = (rng.uniform(size=rng.integers(0, design.cap + 30)) < kappa).tolist()
        longest = int(rng.choice([1, 5, 40, 200]))
        expected = design.read(changed)
        chunks = rng.integers(1, longest + 1, size=len(changed)).tolist()
        assert in_chunks(design.tables, changed, chunks) == expected
        stops.add(expected.stop)
    assert stops - {Stop.OPEN}


@pytest.mark.parametrize("stop", Stop)
@pytest.mark.parametrize("rule", ["wald", "anytime", "fixed"])
def test_designs_reach_every_stop(rule: str, stop: Stop) -> None:
    """The designs above are no dull ones: under each rule streams end at each stop there is."""
    streams = ([False] * 300, [True] * 300, [False, True] * 150, [False] * 10 + [True, False, False] * 80, [])
    reached = {
        design.read(stream[: design.cap + extra]).stop
        for design in ALL
        if design.name.startswith(rule)
        for stream in streams
        for extra in (0, -1)
    }
    assert (stop in reached) is not (rule == "fixed" and stop is Stop.SENSITIVE)


@pytest.mark.parametrize("design", ALL, ids=lambda design: design.name)
def test_distance(design: Design) -> None:
    """What it takes to the nearest boundary in sight, 1 at least, and never past the cap.

    With no change it ends at the stable boundary exactly; once a label changed, no copies fewer could end the test.
    """
    tables, rng = design.tables, np.random.default_rng(3)
    for _ in range(STREAMS // 4):
        kappa = float(rng.choice([rng.uniform(0, 0.3), rng.uniform()]))
        step = START
        while step.stop is Stop.OPEN:
            distance = tables.distance(step)
            assert 1 <= distance <= design.cap - step.n
            ends = {walk(tables, step, [change] * distance).stop for change in (False, True)}
            if step.changes or step.n + distance == design.cap:
                assert ends != {Stop.OPEN}
                sooner = {walk(tables, step, [change] * (distance - 1)) for change in (False, True)}
                assert not step.changes or {end.stop for end in sooner} == {Stop.OPEN}
            if not step.changes:
                unchanged = walk(tables, step, [False] * distance)
                assert unchanged == design.read([False] * (step.n + distance))
                assert unchanged.stop in {Stop.STABLE, Stop.CAP}
                assert unchanged.n == step.n + distance
            step = walk(tables, step, (rng.uniform(size=distance) < kappa).tolist())


def test_wald_by_hand() -> None:
    """The default test: 15 copies without a change are stable, and two changes at once sensitive."""
    tables = wald(0.02, 0.2, 0.01, 0.05, 64)
    assert tables.stable_from[:3] == (15, 28, 40)
    assert tables.sensitive_until[:4] == (-1, -1, 2, 14)
    assert tables.distance(START) == 15


# What the tables are made from, in arrays, against computations that share no line with it.

POINTS = [
    (changes, n, k0)
    for n in (0, 1, 2, 15, 64, 351, 5000, 100_000)
    for changes in sorted({0, min(1, n), n // 50, n // 3, n - n // 10, n})
    for k0 in (1e-12, 0.001, 0.0228, 0.1587, 0.3085, 0.5, 0.9)
]


def by_integration(changes: int, n: int, k0: float, low: float, high: float) -> float:
    """Log of the likelihood averaged over the Jeffreys prior on a range of angles, over that at k0.

    With k = sin^2 t the prior is uniform in t, and what is left is a bell or a slope: Gauss's rule in each decade of
    the distance from its peak.
    """
    peak = min(max(math.atan2(math.sqrt(changes), math.sqrt(n - changes)), low), high)
    distances = 10.0 ** -np.arange(20)
    edges = np.unique(np.clip(np.concatenate([[low, peak, high], peak - distances, peak + distances]), low, high))
    nodes, weights = np.polynomial.legendre.leggauss(60)
    half = np.diff(edges)[:, None] / 2
    t = edges[:-1, None] + half * (nodes + 1)
    logs = changes * (2 * np.log(np.sin(t)) - math.log(k0)) + (n - changes) * (2 * np.log(np.cos(t)) - math.log1p(-k0))
    total = (np.exp(logs - logs.max()) * weights * half).sum()
    return float(logs.max() + math.log(total / (high - low)))


@pytest.mark.parametrize("k0", sorted({k0 for _, _, k0 in POINTS}))
def test_log_e_values(k0: float) -> None:
    """The e-values, many at once, are those of numerical integration, also where the likelihoods underflow."""
    points = [(changes, n) for changes, n, rate in POINTS if rate == k0]
    changes, n = (np.array(column) for column in zip(*points, strict=True))
    angle = math.asin(math.sqrt(k0))
    for found, low, high in (
        (stats.log_e_values_below(changes, n, k0), 0.0, angle),
        (stats.log_e_values_above(changes, n, k0), angle, math.pi / 2),
    ):
        expected = [by_integration(c, m, k0, low, high) for c, m in points]
        np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-7)


def test_clopper_pearson_uppers() -> None:
    """At the bound so few successes, or fewer, have probability alpha exactly; n of n bound nothing."""
    for n in (1, 2, 40, 1000, 100_000):
        for alpha in (0.4, 0.05, 1e-3, 1e-9):
            successes = np.unique(np.linspace(0, n, 12).astype(np.int64))
            bounds = stats.clopper_pearson_uppers(successes, n, alpha)
            np.testing.assert_allclose(distributions.binom.cdf(successes[:-1], n, bounds[:-1]), alpha, rtol=1e-6)
            assert bounds[-1] == 1.0
            assert bounds.tolist() == [stats.clopper_pearson_upper(int(count), n, alpha) for count in successes]
