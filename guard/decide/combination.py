"""One score from all detectors: the most surprising of them, and what they say together."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from guard.decide.surprise import BenignTail, Surprise
from guard.profile.profile import BenignScores, Profile
from guard.profile.spec import Joint
from guard.values import Float64Array


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

    def p_value(self, detector: str, score: float) -> float:
        """Approximate p-value of one detector alone, for people and metrics."""
        return math.exp(-self._surprises[detector](score))

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
    for name, (linear, root) in joint.weights.items():
        surprise = surprises.get(name, 0.0)
        found += linear * surprise + root * math.sqrt(surprise)
    return found


def rows(scored: BenignScores) -> list[dict[str, float]]:
    """The scores of each sample."""
    columns = zip(*(scores.tolist() for scores in scored.scores.values()), strict=True)
    return [dict(zip(scored.scores, row, strict=True)) for row in columns]
