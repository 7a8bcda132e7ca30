"""What detectors say together, learnt from their scores of attacks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from guard import stats
from guard.decide.combination import Combination
from guard.offline.joint import ALONE, caught_alone, learn
from guard.profile.profile import BenignScores, Profile
from guard.profile.spec import BitDepth, ConfidenceSpec, NetworkSpec, SqueezingSpec
from guard.values import Float64Array
from tests.profile.parts import a_profile, benign

SPECS = (ConfidenceSpec(), NetworkSpec(sha256=""), SqueezingSpec(squeezers=(BitDepth(bits=4),)))


def scored(rng: np.random.Generator, n: int, *, shift: float = 0.0) -> BenignScores:
    """Two detectors that attacks move by `shift` deviations each, and one that tells nothing."""
    confidence, network, squeezing = rng.standard_normal((3, n))
    return benign(np.zeros(n, np.int64), confidence=confidence + shift, network=network + shift, squeezing=squeezing)


def profile(rng: np.random.Generator) -> Profile:
    """Reference and calibration scores of benign inputs."""
    return a_profile(SPECS, scored(rng, 1500), scored(rng, 3000))


def flagged(made: Profile, attacks: BenignScores, rate: float) -> float:
    """Share of attacks at or above the benign threshold."""
    combination = Combination(made)
    ordinary = np.sort(combination.of_all(made.calibration))
    threshold = stats.p_value_threshold(len(ordinary), rate)
    found: Float64Array = combination.of_all(attacks)
    return float(np.mean([stats.conformal_p_value(ordinary, score) <= threshold for score in found]))


def test_weights_follow_what_tells() -> None:
    """Detectors that attacks move get weights, and one that tells nothing next to none; none is negative."""
    rng = np.random.default_rng(0)
    joint = learn(profile(rng), {"a": [scored(rng, 200, shift=2.0)], "b": [scored(rng, 50, shift=3.0)]})
    assert joint is not None
    sums = {name: sum(each) for name, each in joint.weights.items()}
    assert min(min(each) for each in joint.weights.values()) >= 0
    assert sums["squeezing"] < 0.1 * min(sums["confidence"], sums["network"])


def test_what_adds_up_is_caught_more_often() -> None:
    """Attacks that move two detectors by two deviations are flagged more often at 1 % with weights than without."""
    rng = np.random.default_rng(1)
    made = profile(rng)
    weighted = replace(made, joint=learn(made, {"a": [scored(rng, 200, shift=2.0)]}))
    attacks = scored(rng, 600, shift=2.0)
    assert flagged(weighted, attacks, 0.01) > flagged(made, attacks, 0.01) + 0.05


def test_the_rate_stays() -> None:
    """Other benign inputs are flagged at the rate that was asked for, weights or not."""
    rng = np.random.default_rng(2)
    made = profile(rng)
    weighted = replace(made, joint=learn(made, {"a": [scored(rng, 200, shift=2.0)]}))
    assert flagged(weighted, scored(rng, 4000), 0.05) < 0.065


def test_families_weigh_alike() -> None:
    """How many attacks of a family succeeded changes nothing, nor into how many equal sets they fall."""
    rng = np.random.default_rng(3)
    made, many = profile(rng), scored(rng, 500, shift=3.0)
    once = benign([0] * 4, confidence=[0.0] * 4, network=[0.0] * 4, squeezing=[5.0, 6.0, 5.5, 6.5])
    often = benign([0] * 400, **{name: np.tile(each, 100) for name, each in once.scores.items()})
    found = [learn(made, {"many": [many], "few": few}) for few in ([once], [often], [once, once])]
    for joint in found[1:]:
        assert joint is not None
        assert found[0] is not None
        for name, weights in joint.weights.items():
            np.testing.assert_allclose(weights, found[0].weights[name], atol=1e-3)


def test_without_attacks() -> None:
    """Where nothing fooled the model there is nothing to learn."""
    made = profile(np.random.default_rng(4))
    assert learn(made, {}) is None
    assert learn(made, {"a": [scored(np.random.default_rng(5), 0)]}) is None


def test_what_each_catches_alone() -> None:
    """A detector that attacks move catches most; one that they don't move as many as it flags of benign inputs."""
    rng = np.random.default_rng(4)
    attacks = {"a": [scored(rng, 4000, shift=3.0)], "b": [scored(rng, 40, shift=3.0)]}
    caught = caught_alone(profile(rng), attacks)
    assert min(caught["confidence"], caught["network"]) > 0.75
    assert 0.5 * ALONE < caught["squeezing"] < 2 * ALONE


def test_sets_weigh_alike_alone() -> None:
    """Of two families, one of which is caught whole and the other not at all, half is caught, whatever their sizes."""
    rng = np.random.default_rng(5)
    seen, unseen = ((np.full(n, each) for each in (0.0, network, 0.0)) for n, network in ((300, 9.0), (3, -9.0)))
    sets = {
        name: [benign(np.zeros(len(c), np.int64), confidence=c, network=n, squeezing=s)]
        for name, (c, n, s) in (("seen", seen), ("unseen", unseen))
    }
    assert caught_alone(profile(rng), sets)["network"] == 0.5
    assert caught_alone(profile(rng), {}) == {}
