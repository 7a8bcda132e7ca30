"""Fair ratios on a noisy machine: the sides take turns, and each round gives a ratio of its own."""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple


class Ratio(NamedTuple):
    """Median, least and largest over rounds, and the median cost of the numerator."""

    median: float
    low: float
    high: float
    numerator: float = math.nan


def ratio(
    numerator: Callable[[], float], denominator: Callable[[], float], rounds: int, *, in_turns: bool = True
) -> Ratio:
    """The ratio of two measured costs. Each side gives its cost (seconds, or seconds a unit) for a round of work.

    The sides take turns at being first, unless the numerator always has to be.
    """
    found, costs = [], []
    for turn in range(rounds):
        gc.collect()
        if turn % 2 and in_turns:
            below, above = denominator(), numerator()
        else:
            above, below = numerator(), denominator()
        found.append(above / below)
        costs.append(above)
    return Ratio(statistics.median(found), min(found), max(found), statistics.median(costs))


def seconds(work: Callable[[], object]) -> float:
    """How long it takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
