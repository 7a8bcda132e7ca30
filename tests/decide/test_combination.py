"""One score from all detectors."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.decide.combination import Combination, together
from guard.profile.profile import BenignScores, Profile
from guard.profile.spec import ConfidenceSpec, Joint, NetworkSpec, OcclusionSpec
from guard.values import Float64Array
from tests.profile.parts import a_profile, benign

NORMAL = np.random.default_rng(0).standard_normal(400)
ONE_CLASS = np.zeros(400, np.int64)
FINITE = st.floats(-1e6, 1e6, allow_nan=False)
DETECTORS = ("confidence", "network", "occlusion")
SPECS = (
    ConfidenceSpec(),
    NetworkSpec(sha256=""),
    OcclusionSpec(image_px=(8, 8), patch_px=2, fill=(0.0,), pairs="skip"),
)
REFERENCE = benign(ONE_CLASS, confidence=NORMAL, network=2 * NORMAL[::-1] + 1, occlusion=np.roll(NORMAL, 7))
JOINT = Joint(weights={"confidence": (0.5, 0.1), "network": (1.0, 0.0), "occlusion": (0.0, 0.3)})


def profile(reference: BenignScores = REFERENCE, joint: Joint | None = None) -> Profile:
    """A profile with these scores."""
    return replace(a_profile(SPECS, reference, reference), joint=joint)


def test_combination_is_the_harmonic_mean() -> None:
    """The combined score is minus the log of the harmonic mean of the detectors' p-values, but for the log of m."""
    combination = Combination(profile())
    scores = {"confidence": 2.0, "network": -4.0, "occlusion": 0.3}
    p_values = np.array([combination.p_value(name, score) for name, score in scores.items()])
    harmonic_mean = len(p_values) / (1 / p_values).sum()
    assert combination(scores) == pytest.approx(-math.log(harmonic_mean) + math.log(len(p_values)))


_COMBINATIONS = (Combination(profile()), Combination(profile(joint=JOINT)))


@pytest.mark.parametrize("joint", [None, JOINT])
@given(
    scores=st.dictionaries(st.sampled_from(DETECTORS), FINITE),
    lost=st.dictionaries(st.sampled_from(DETECTORS), st.sampled_from([None, math.nan, math.inf, -math.inf])),
)
def test_missing_detectors_only_lower(
    joint: Joint | None, scores: dict[str, float], lost: dict[str, float | None]
) -> None:
    """Whichever detectors fail, or score what is no number, the combined score can only become smaller."""
    combination = _COMBINATIONS[joint is not None]
    left = {name: lost.get(name, score) for name, score in scores.items()}
    left = {name: score for name, score in left.items() if score is not None}
    rounding = 1 + 1e-12
    assert 0 <= combination(left) <= combination(scores) * rounding


def test_of_all_combines_each_sample() -> None:
    """A set of benign samples is combined row by row; holes are left out."""
    labels = np.zeros(120, np.int64)
    first, second = NORMAL[:120].copy(), NORMAL[120:240]
    first[3] = np.nan
    reference = benign(labels, confidence=NORMAL[240:360], network=second, occlusion=second)
    combination = Combination(profile(reference))
    combined: Float64Array = combination.of_all(benign(labels, confidence=first, network=second))
    assert combined.shape == (120,)
    assert combined[3] == combination({"network": second[3]})
    assert combined[70] == combination({"confidence": first[70], "network": second[70]})


def test_together() -> None:
    """What detectors say together is a weighted sum of surprises and of their roots; one without a surprise adds 0."""
    assert together({"confidence": 4.0, "network": 2.0}, JOINT) == pytest.approx(0.5 * 4 + 0.1 * 2 + 2.0)
    assert together({}, JOINT) == 0


@pytest.mark.parametrize("joint", [None, JOINT])
@given(scores=st.dictionaries(st.sampled_from(DETECTORS), FINITE, min_size=1))
def test_shares_are_one_together(joint: Joint | None, scores: dict[str, float]) -> None:
    """Each detector that scored has a share, none is negative, and they are one together, however extreme a score is.

    What detectors say together is a part of them, and there only with weights.
    """
    shares, all_of_them = _COMBINATIONS[joint is not None].shares(scores)
    assert shares.keys() == scores.keys()
    assert min(shares.values()) >= 0
    assert sum(shares.values()) == pytest.approx(1)
    assert (all_of_them is None) == (joint is None)
    assert all_of_them is None or 0 < all_of_them.share < 1


def test_a_share_is_the_part_of_a_term() -> None:
    """Without weights a share is the part of an inverse p-value in their sum, the largest for the most surprising."""
    combination, scores = _COMBINATIONS[0], {"confidence": 2.0, "network": -4.0, "occlusion": 0.3}
    inverse = {name: 1 / combination.p_value(name, score) for name, score in scores.items()}
    shares, _ = combination.shares(scores)
    assert shares == pytest.approx({name: each / sum(inverse.values()) for name, each in inverse.items()})
    assert max(shares, key=shares.__getitem__) == "confidence"


def test_what_is_said_together_is_divided() -> None:
    """With weights there is one more term, as rare as it says among benign inputs; each has what it adds to the sum."""
    combination, scores = _COMBINATIONS[1], {"confidence": 2.0, "network": 5.0, "occlusion": 2.0}
    shares, all_of_them = combination.shares(scores)
    surprises = combination.surprises(scores)
    total = together(surprises, JOINT)
    assert all_of_them is not None
    assert all_of_them.samples == len(NORMAL)
    inverse = {name: math.exp(each) for name, each in surprises.items()}
    joint = len(DETECTORS) / all_of_them.p_value
    assert all_of_them.share == pytest.approx(joint / (joint + sum(inverse.values())))
    network = (inverse["network"] + joint * surprises["network"] / total) / (joint + sum(inverse.values()))
    assert shares["network"] == pytest.approx(network)


def test_no_shares_without_scores() -> None:
    """Where no detector scored, none has a share."""
    assert [combination.shares({}) for combination in _COMBINATIONS] == [({}, None)] * 2


def test_weak_evidence_in_several_adds_up() -> None:
    """An input that is a little unusual to every detector is more unusual with weights than without, among benign ones.

    And one that is so to a single detector hardly loses by them.
    """
    sure = {"confidence": 0.0, "network": 1.0, "occlusion": 4.5}
    a_little = {"confidence": 2.0, "network": 5.0, "occlusion": 2.0}
    ranks = {}
    for number, combination in enumerate(_COMBINATIONS):
        benign_scores = combination.of_all(REFERENCE)
        ranks[number] = [float((benign_scores >= combination(scores)).mean()) for scores in (sure, a_little)]
    assert ranks[1][1] < ranks[0][1]
    assert ranks[1][0] <= ranks[0][0] + 0.01
