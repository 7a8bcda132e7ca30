"""Fair ratios on a noisy machine: the sides take turns, and each round gives a ratio of its own."""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

Cost: TypeAlias = Callable[[], float]
"""A side's cost for a round of work: seconds, or seconds a unit."""


class Ratio(NamedTuple):
    """The ratio over all rounds, the least and largest of one, the numerator's cost and that of what ran beside."""

    value: float
    low: float
    high: float
    numerator: float = math.nan
    beside: float = math.nan


def ratio(
    numerator: Cost,
    denominator: Cost,
    rounds: int,
    *,
    beside: Cost | None = None,
    in_turns: bool = True,
    pooled: bool = False,
) -> Ratio:
    """The ratio of two measured costs.

    The sides take turns at being first, unless the numerator always has to be. The ratio is the median of the rounds',
    or with `pooled` that of the sums: where a round's cost hangs on which images it drew, a median of few says little.
    `beside` is a third cost, measured in every round too.
    """
    costs: list[tuple[float, float]] = []
    others: list[float] = []
    for turn in range(rounds):
        gc.collect()
        if turn % 2 and in_turns:
            below, above = denominator(), numerator()
        else:
            above, below = numerator(), denominator()
        costs.append((above, below))
        if beside is not None:
            others.append(beside())
    each = [above / below for above, below in costs]
    middle = statistics.fmean if pooled else statistics.median
    numerators, denominators = zip(*costs, strict=True)
    value = sum(numerators) / sum(denominators) if pooled else statistics.median(each)
    return Ratio(value, min(each), max(each), middle(numerators), middle(others) if others else math.nan)


def seconds(work: Callable[[], object]) -> float:
    """How long it takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
