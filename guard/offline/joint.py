"""What detectors say together: weights for their surprises, learnt from attacks that no detector network was shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, special

from guard.decide.combination import Combination, rows
from guard.offline.progress import Reporter
from guard.offline.scoring import Screens, score
from guard.profile.profile import BenignScores, Profile
from guard.profile.spec import DetectorSpec, Joint
from guard.values import Float32Array, Float64Array

ALONE = 0.05
"""The rate at which detectors are compared, each by itself."""

_PENALTY = 1e-3
"""On squared weights: keeps them finite where attacks and benign inputs can be told apart completely."""


def learn(profile: Profile, attacks: Mapping[str, Sequence[BenignScores]]) -> Joint | None:
    """Weights that tell attacks, scored in sets by family, from the profile's reference samples; None without attacks.

    A logistic regression whose weights are not negative, so that more evidence never counts for less. Families weigh
    alike, and so do the sets of one, however many attacks succeeded. What comes of it is placed among benign inputs
    like any score, and the false-positive rate does not rest on it.
    """
    if (attacked := _attacked(profile, attacks)) is None:
        return None
    names = profile.scoring
    found = _fit(_features(_surprises(profile, profile.reference)), _features(attacked.surprises), attacked.weights)
    return Joint(weights={name: (float(found[at]), float(found[len(names) + at])) for at, name in enumerate(names)})


def caught_alone(profile: Profile, attacks: Mapping[str, Sequence[BenignScores]]) -> dict[str, float]:
    """The share of attacks, scored in sets by family, that each detector alone would flag at a rate of `ALONE`.

    Families and sets weigh alike. A detector that has learnt nothing flags that share of them too.
    """
    if (attacked := _attacked(profile, attacks)) is None:
        return {}
    limits = np.quantile(_surprises(profile, profile.calibration), 1 - ALONE, axis=0)
    shares = attacked.weights @ (attacked.surprises > limits)
    return dict(zip(profile.scoring, shares.tolist(), strict=True))


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


@dataclass(frozen=True, slots=True)
class _Attacked:
    """Surprises of attacks, (n, detectors), and what each attack weighs, (n,); one together."""

    surprises: Float64Array
    weights: Float64Array


def _attacked(profile: Profile, attacks: Mapping[str, Sequence[BenignScores]]) -> _Attacked | None:
    """Families weigh alike, and so do the sets of one; None without attacks."""
    sets = [(1 / len(family), scored) for family in attacks.values() for scored in family if len(scored)]
    if not sets:
        return None
    weights = np.concatenate([np.full(len(scored), share / len(scored)) for share, scored in sets])
    surprises = np.concatenate([_surprises(profile, scored) for _, scored in sets])
    return _Attacked(surprises, weights / weights.sum())


def _surprises(profile: Profile, scored: BenignScores) -> Float64Array:
    """(n, detectors), as `profile.scoring` has them; none where there is no score."""
    combination, names = Combination(profile), profile.scoring
    found = [combination.surprises(scores) for scores in rows(scored)]
    return np.array([[each.get(name, 0.0) for name in names] for each in found]).reshape(len(found), len(names))


def _features(surprises: Float64Array) -> Float64Array:
    """Surprises and their roots, (n, 2 detectors)."""
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
