"""One score from all detectors: the most surprising of them, and what they say together."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from guard.decide.surprise import BenignTail, Surprise
from guard.profile.profile import BenignScores, Profile
from guard.profile.spec import Joint
from guard.values import Float64Array, Together


class Combination:
    """Minus the log of the harmonic mean of the detectors' p-values, but for a constant (Wilson, 2019).

    Strong evidence of one detector is not diluted by others that see nothing, which an average (Fisher, 1932) does:
    attacks of different kinds show in different detectors. Others show a little in several. So where a profile has
    weights, what detectors say together takes part as well, and counts as much as all of them alone: a sum of
    surprises, placed among those of benign inputs. No weight is negative, and a detector without a score adds nothing,
    so that a failure can only make the combination smaller.
    """

    def __init__(self, profile: Profile) -> None:
        reference = profile.reference
        self._surprises = {
            name: Surprise(scores, two_sided=name in profile.two_sided) for name, scores in reference.scores.items()
        }
        self._joint = profile.joint
        self._joint_tail = None if self._joint is None else BenignTail(self.together_of_all(reference, self._joint))

    def __call__(self, scores: Mapping[str, float]) -> float:
        """The combined score of one item. Scores that are not finite are left out."""
        found = self.surprises(scores)
        if not found:
            return 0.0
        each = list(found.values())
        if self._joint is not None:
            each.append(self.joint_surprise(together(found, self._joint)))
        return float(np.logaddexp.reduce(each))

    def surprises(self, scores: Mapping[str, float]) -> dict[str, float]:
        """Each detector's surprise, in nats; scores that are not finite are left out."""
        return {name: self._surprises[name](score) for name, score in scores.items() if math.isfinite(score)}

    def joint_surprise(self, total: float) -> float:
        """The surprise of what detectors say together, in nats, with its weight among theirs; 0 without weights."""
        if self._joint_tail is None:
            return 0.0
        return self._joint_tail.surprise(total) + math.log(len(self._surprises))

    def shares(self, scores: Mapping[str, float]) -> tuple[dict[str, float], Together | None]:
        """How much of the combined score each detector makes, one together, and what they say together.

        The score is the log of a sum of inverse p-values, so a term's share is its part of that sum. The share of what
        detectors say together is divided among them as the weighted sum is.
        """
        found, combined = self.surprises(scores), self(scores)
        own = {name: math.exp(surprise - combined) for name, surprise in found.items()}
        if self._joint is None or self._joint_tail is None or not found:
            return own, None
        parts = {name: _part(found.get(name, 0.0), weights) for name, weights in self._joint.weights.items()}
        total = together(found, self._joint)
        share = math.exp(self.joint_surprise(total) - combined)
        p_value, samples = math.exp(-self._joint_tail.surprise(total)), self._joint_tail.samples
        if total == 0:  # nothing is unusual: then nobody has a greater part in it
            return {name: each / (1 - share) for name, each in own.items()}, Together(p_value, samples, share)
        divided = {name: each + share * parts.get(name, 0.0) / total for name, each in own.items()}
        return divided, Together(p_value, samples, share)

    def p_value(self, detector: str, score: float) -> float:
        """Approximate p-value of one detector alone, for people and metrics."""
        return math.exp(-self._surprises[detector](score))

    def samples(self, detector: str) -> int:
        """How many benign scores a detector's p-value rests on."""
        return self._surprises[detector].samples

    def of_all(self, benign: BenignScores) -> Float64Array:
        """The combined score of each benign sample, (n,)."""
        return np.array([self(scores) for scores in rows(benign)], dtype=np.float64)

    def together_of_all(self, benign: BenignScores, joint: Joint) -> Float64Array:
        """What detectors say together of each benign sample, (n,)."""
        found = [together(self.surprises(scores), joint) for scores in rows(benign)]
        return np.array(found, dtype=np.float64)


def together(surprises: Mapping[str, float], joint: Joint) -> float:
    """The weighted sum of surprises and of their square roots, which count weak ones for more."""
    found = 0.0
    for name, weights in joint.weights.items():
        found += _part(surprises.get(name, 0.0), weights)
    return found


def _part(surprise: float, weights: tuple[float, float]) -> float:
    linear, root = weights
    return linear * surprise + root * math.sqrt(surprise)


def rows(scored: BenignScores) -> list[dict[str, float]]:
    """The scores of each sample."""
    columns = zip(*(scores.tolist() for scores in scored.scores.values()), strict=True)
    return [dict(zip(scored.scores, row, strict=True)) for row in columns]
