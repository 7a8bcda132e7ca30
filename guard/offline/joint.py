"""What detectors say together: weights for their surprises, learnt from attacks that no detector network was shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy import optimize, special

from guard.decide.combination import Combination, rows
from guard.offline.progress import Reporter
from guard.offline.scoring import Screens, score
from guard.profile.profile import BenignScores, Profile
from guard.profile.spec import DetectorSpec, Joint
from guard.values import Float32Array, Float64Array

_PENALTY = 1e-3
"""On squared weights: keeps them finite where attacks and benign inputs can be told apart completely."""


def learn(profile: Profile, attacks: Mapping[str, Sequence[BenignScores]]) -> Joint | None:
    """Weights that tell attacks, scored in sets by family, from the profile's reference samples; None without attacks.

    A logistic regression whose weights are not negative, so that more evidence never counts for less. Families weigh
    alike, and so do the sets of one, however many attacks succeeded. What comes of it is placed among benign inputs
    like any score, and the false-positive rate does not rest on it.
    """
    sets = [(1 / len(family), scored) for family in attacks.values() for scored in family if len(scored)]
    if not sets:
        return None
    combination, names = Combination(profile), profile.scoring
    benign = _features(combination, profile.reference, names)
    attacked = [_features(combination, scored, names) for _, scored in sets]
    weights = np.concatenate(
        [np.full(len(each), share / len(each)) for (share, _), each in zip(sets, attacked, strict=True)]
    )
    found = _fit(benign, np.concatenate(attacked), weights / weights.sum())
    return Joint(weights={name: (float(found[at]), float(found[len(names) + at])) for at, name in enumerate(names)})


def score_sets(
    screens: Screens,
    attacks: Mapping[str, Sequence[Float32Array]],
    detectors: Sequence[DetectorSpec],
    reporter: Reporter,
) -> dict[str, list[BenignScores]]:
    """The scores of sets of attacks (n, *shape), by family."""
    sets = [each for family in attacks.values() for each in family]
    if not sets:
        return {}
    together = score(screens, np.concatenate(sets), detectors, reporter, "attacks")
    ends = np.cumsum([len(each) for each in sets]).tolist()
    parts = iter(slice(end - len(each), end) for end, each in zip(ends, sets, strict=True))
    return {family: [_part(together, next(parts)) for _ in each] for family, each in attacks.items()}


def _part(scored: BenignScores, at: slice) -> BenignScores:
    return BenignScores(scored.labels[at], {name: each[at] for name, each in scored.scores.items()})


def _features(combination: Combination, scored: BenignScores, names: Sequence[str]) -> Float64Array:
    """Surprises and their roots, (n, 2 detectors)."""
    found = [combination.surprises(scores) for scores in rows(scored)]
    surprises = np.array([[each.get(name, 0.0) for name in names] for each in found]).reshape(len(found), len(names))
    return np.hstack([surprises, np.sqrt(surprises)])


def _fit(benign: Float64Array, attacked: Float64Array, weights: Float64Array) -> Float64Array:
    """The regression's weights, without its constant. Benign inputs weigh as much as all attacks together."""
    features = np.vstack([benign, attacked])
    signs = np.concatenate([np.full(len(benign), -1.0), np.ones(len(attacked))])
    weights = np.concatenate([np.full(len(benign), 1 / len(benign)), weights]) / 2

    def loss(at: Float64Array) -> tuple[float, Float64Array]:
        margins = signs * (features @ at[:-1] + at[-1])
        pulls = -signs * weights * special.expit(-margins)
        slope = np.append(features.T @ pulls + 2 * _PENALTY * at[:-1], pulls.sum())
        return float(weights @ np.logaddexp(0, -margins) + _PENALTY * (at[:-1] ** 2).sum()), slope

    width = features.shape[1]
    bounds = [(0, None)] * width + [(None, None)]
    found: Float64Array = optimize.minimize(loss, np.zeros(width + 1), jac=True, method="L-BFGS-B", bounds=bounds).x
    return found[:-1]
