"""Where sequential tests on label changes stop, as integers: the hot path compares counts and computes no logarithm.

The rule looks after every copy. Copies come in chunks, and the walk finds the first crossing inside one, so chunks
change what is spent and never what is decided.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from jaxtyping import Bool

from guard import stats
from guard.values import IntArray

BoolArray: TypeAlias = npt.NDArray[np.bool_]


class Stop(Enum):
    """How a test stands."""

    OPEN = 0
    STABLE = 1
    SENSITIVE = 2
    CAP = 3


class Step(NamedTuple):
    """Where a walk is: `changes` among `n` copies."""

    n: int
    changes: int
    stop: Stop


START = Step(0, 0, Stop.OPEN)


@dataclass(frozen=True, slots=True)
class Boundaries:
    """The two boundaries of a test, by the number of label changes so far, up to a cap on the copies.

    With `c` changes the test ends as stable at `stable_from[c]` copies or more (beyond the cap: never), and as
    sensitive at `sensitive_until[c]` copies or fewer (-1: never).
    """

    stable_from: tuple[int, ...]
    sensitive_until: tuple[int, ...]
    cap: int

    def walk(self, step: Step, changed: Bool[npt.NDArray[np.bool_], " copies"], *, none: bool = False) -> Step:
        """Take the next copies, as far as the first boundary; `none` says that none of them changed its label."""
        n, changes, _ = step
        end = n + len(changed)
        for position in () if none else changed.nonzero()[0].tolist():
            at = n + position + 1
            if self.stable_from[changes] < at or at > self.cap:
                break
            changes += 1
            if at <= self.sensitive_until[changes]:
                return Step(at, changes, Stop.SENSITIVE)
        stable = self.stable_from[changes]
        if stable <= min(end, self.cap):
            return Step(stable, changes, Stop.STABLE)
        return Step(end, changes, Stop.OPEN) if end < self.cap else Step(self.cap, changes, Stop.CAP)

    def distance(self, step: Step) -> int:
        """Copies to the nearest boundary in sight: the stable one, and once a label changed the sensitive one too."""
        n, changes, _ = step
        stable = min(self.stable_from[changes], self.cap) - n
        if changes == 0:
            return stable
        for more in range(1, min(stable, self.cap - changes) + 1):
            if n + more <= self.sensitive_until[changes + more]:
                return more
        return stable


@lru_cache(maxsize=64)
def wald(p0: float, p1: float, alpha: float, beta: float, cap: int) -> Boundaries:
    """Boundaries of `stats.wald_decision`."""
    low, high = math.log(beta / (1 - alpha)), math.log((1 - beta) / alpha)

    def ratio(changes: IntArray, n: IntArray) -> npt.NDArray[np.float64]:
        return stats.wald_log_likelihood_ratio(changes, n, p0, p1)

    return _boundaries(lambda c, n: ratio(c, n) <= low, lambda c, n: ratio(c, n) >= high, cap)


@lru_cache(maxsize=64)
def anytime(k0: float, alpha: float, cap: int) -> Boundaries:
    """Boundaries at which `stats.log_e_value_below` proves kappa < k0 (stable), or its mirror image kappa > k0."""
    threshold = -math.log(alpha)
    return _boundaries(
        lambda c, n: stats.log_e_values_below(c, n, k0) >= threshold,
        lambda c, n: stats.log_e_values_above(c, n, k0) >= threshold,
        cap,
    )


@lru_cache(maxsize=64)
def fixed(k0: float, alpha: float, cap: int) -> Boundaries:
    """One look, at the cap: kappa < k0 by the upper limit of Clopper and Pearson. Nothing stops it earlier."""
    counts = np.arange(cap + 1)
    proved = stats.clopper_pearson_uppers(counts, cap, alpha) < k0
    return Boundaries(tuple(np.where(proved, cap, cap + 1).tolist()), (-1,) * (cap + 1), cap)


_Holds: TypeAlias = Callable[[IntArray, IntArray], BoolArray]


def _boundaries(stable: _Holds, sensitive: _Holds, cap: int) -> Boundaries:
    """By bisection over n, for every count of changes at once: more copies with the same changes are more stable."""
    counts = np.arange(cap + 1)
    stable_from = _first(lambda n: stable(counts, n), counts, cap)
    sensitive_until = _first(lambda n: ~sensitive(counts, n), counts, cap) - 1
    sensitive_until[sensitive_until < np.maximum(counts, 1)] = -1
    return Boundaries(tuple(stable_from.tolist()), tuple(sensitive_until.tolist()), cap)


def _first(holds: Callable[[IntArray], BoolArray], counts: IntArray, cap: int) -> IntArray:
    """The least n in [max(c, 1), cap] at which each holds, given that it then holds for all larger n; else cap + 1."""
    low = np.maximum(counts, 1) - 1  # does not hold, or is out of range
    high = np.full_like(counts, cap + 1)
    while (high - low > 1).any():
        middle = np.maximum((low + high) // 2, np.maximum(counts, 1))
        found = holds(np.minimum(middle, cap))
        inside = high - low > 1
        high = np.where(inside & found, middle, high)
        low = np.where(inside & ~found, middle, low)
    return high
