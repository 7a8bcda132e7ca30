"""How unusual scores are among benign ones: smooth tail probabilities, so that extremes still rank.

Nothing here needs to be exact: the combination of an item's surprises is calibrated conformally on inputs of its own,
and that is what the false-positive rate rests on.
"""

from __future__ import annotations

import math

import numpy as np

from guard.values import Float64Array

_TAIL = 0.1
_LEAST_EXCESSES = 3
_SHAPES = (-0.5, 0.3)
_END = 1e-3
_FLAT = 1e-9


class BenignTail:
    """Upper-tail probability of a benign distribution: empirical in the body, generalised Pareto over the top tenth.

    Excesses over a high threshold are about Pareto (Pickands, 1975); fitted by moments (Hosking and Wallis, 1987). A
    bounded tail matters: no benign margin is below zero, and minimal attacks end there. Where there are no scores to
    compare with, nothing is a surprise.
    """

    def __init__(self, scores: Float64Array) -> None:
        self._sorted = np.sort(scores)
        if not len(scores):
            self._start, self._shape, self._scale = math.inf, 0.0, 1.0
            return
        self._start = float(np.quantile(self._sorted, 1 - _TAIL))
        excess = self._sorted[self._sorted > self._start] - self._start
        variance = float(excess.var(ddof=1)) if len(excess) >= _LEAST_EXCESSES else 0.0
        if variance == 0.0:
            self._shape, self._scale = 0.0, max(float(np.ptp(self._sorted)) * _TAIL, _FLAT)
        else:
            mean = float(excess.mean())
            shape = (1 - mean**2 / variance) / 2
            self._shape = min(max(shape, _SHAPES[0]), _SHAPES[1])
            self._scale = mean * (1 - self._shape)

    @property
    def samples(self) -> int:
        """How many benign scores it rests on."""
        return len(self._sorted)

    def surprise(self, score: float) -> float:
        """Minus the log of the chance, about, that a benign score is `score` or more; in nats, 0 or more."""
        if score > self._start:
            return self._excess_surprise((score - self._start) / self._scale) - math.log(_TAIL)
        n = len(self._sorted)
        at_least = n - int(np.searchsorted(self._sorted, score, side="left"))
        return -math.log(max((at_least + 1) / (n + 1), _TAIL))

    def _excess_surprise(self, excess: float) -> float:
        if abs(self._shape) < _FLAT:
            return excess
        remaining = 1 + self._shape * excess
        if remaining > _END:
            return math.log(remaining) / self._shape
        # Past the end of a bounded tail all is equally impossible by the fit; keep ranking by distance.
        return math.log(_END) / self._shape + (_END - remaining)


class Surprise:
    """One detector's scores against those of benign inputs, of all classes together.

    Not class by class: the top tenth of a class is a dozen inputs, and tails fitted to so few vary more from one
    calibration to the next than classes differ. Two-sided detectors count scores that are far too low like scores that
    are far too high.
    """

    def __init__(self, scores: Float64Array, *, two_sided: bool) -> None:
        known = scores[np.isfinite(scores)]
        self._upper = BenignTail(known)
        self._lower = BenignTail(-known) if two_sided else None

    @property
    def samples(self) -> int:
        """How many benign scores it rests on."""
        return self._upper.samples

    def __call__(self, score: float) -> float:
        """Minus the log of the p-value, about; in nats, 0 for an ordinary score."""
        upper = self._upper.surprise(score)
        if self._lower is None:
            return upper
        return max(0.0, max(upper, self._lower.surprise(-score)) - math.log(2))
