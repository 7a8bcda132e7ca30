"""Which of the attacks that calibration made are kept, for a running Guard to test itself with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import structlog

from guard import stats
from guard.decide.combination import Combination
from guard.profile.profile import BenignScores, Profile
from guard.values import Float32Array

MOST = 4

_log = structlog.get_logger(__name__)


def most_striking(
    profile: Profile, attacks: Mapping[str, Sequence[Float32Array]], scored: Mapping[str, Sequence[BenignScores]]
) -> Float32Array:
    """The most striking attack of each family, of the few most striking families, (n, *shape).

    Only attacks with the least p-value that there is: they are flagged at any rate that the profile supports. Where
    there is none, a warning says so.
    """
    combination = Combination(profile)
    benign = np.sort(combination.of_all(profile.calibration))
    found: list[tuple[float, Float32Array]] = []
    for family, sets in attacks.items():
        inputs = np.concatenate(list(sets))
        scores = np.concatenate([combination.of_all(each) for each in scored[family]])
        best = int(scores.argmax())
        if stats.conformal_p_value(benign, float(scores[best])) <= 1 / (len(benign) + 1):
            found.append((float(scores[best]), inputs[best]))
    if not found:
        _log.warning(
            "no attack of calibration is more striking than all benign samples, so a running Guard has none to test "
            "itself with, and does not. More samples, and the model's file, make for better detectors"
        )
    found.sort(key=lambda each: -each[0])
    shape = profile.model.shape
    return np.stack([x for _, x in found[:MOST]]) if found else np.zeros((0, *shape), np.float32)
