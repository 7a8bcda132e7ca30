"""Where flagging begins: the rate that was asked for, kept over all inputs and, doubled, for each kind of them."""

from __future__ import annotations

from typing import Final

import numpy as np

from guard import stats
from guard.values import Float64Array, IntArray

TIMES: Final = 2
"""How many times the rate inputs of one kind may be flagged."""

_LEAST_EXPECTED = 10
"""Inputs of a kind that its own rate must flag on average: a limit drawn from fewer varies more than it protects."""


def p_value_threshold(
    combined: Float64Array, groups: IntArray | None, rate: float, confidence: float | None = None
) -> float:
    """The conformal p-value at or below which an input is flagged, by the combined scores (n,) of benign inputs.

    Over all of them the rate is kept as `stats.p_value_threshold` says. Alone it would let one kind of input pay for
    the others: noise flagged at three times the rate, JPEGs hardly. So inputs of each group, (n,), are flagged at
    `TIMES` the rate at most, by the same reasoning within the group (Mondrian conformal prediction, Vovk et al., 2005,
    section 4.5); the group of an input to come is not known, so the strictest decides. With `confidence` each group is
    kept in that share of draws, by itself. Groups too small for that are left out.
    """
    threshold = stats.p_value_threshold(len(combined), rate, confidence)
    for limit in _limits(combined, groups, rate, confidence):
        beyond = int((combined > limit).sum())
        threshold = min(threshold, (1 + beyond) / (len(combined) + 1))
    return threshold


def held_for(groups: IntArray | None, rate: float, confidence: float | None = None) -> bool:
    """Whether each group has enough inputs to be kept below `TIMES` the rate."""
    counts = [] if groups is None else np.unique_counts(groups).counts.tolist()
    return bool(counts) and all(_large_enough(n, rate, confidence) for n in counts)


def _limits(combined: Float64Array, groups: IntArray | None, rate: float, confidence: float | None) -> list[float]:
    """For each group the combined score that an input has to exceed."""
    found = []
    for group in [] if groups is None else np.unique(groups).tolist():
        scores = np.sort(combined[groups == group])[::-1]
        if _large_enough(len(scores), rate, confidence):
            own = stats.p_value_threshold(len(scores), TIMES * rate, confidence)
            found.append(float(scores[round(own * (len(scores) + 1)) - 1]))
    return found


def _large_enough(n: int, rate: float, confidence: float | None) -> bool:
    most = TIMES * rate
    return most < 1 and n >= max(_LEAST_EXPECTED / most, stats.samples_needed(most, confidence))
