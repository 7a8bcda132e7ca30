"""Surprise and its combination: how unusual scores are among benign ones."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.decide.surprise import BenignTail, Surprise

NORMAL = np.random.default_rng(0).standard_normal(400)
FINITE = st.floats(-1e6, 1e6, allow_nan=False)


@given(scores=st.lists(FINITE, min_size=1, max_size=60), asked=st.lists(FINITE, min_size=2, max_size=20))
def test_tail_is_monotone(scores: list[float], asked: list[float]) -> None:
    """Whatever the benign scores are, a larger score is never less of a surprise, and none is below 0."""
    tail = BenignTail(np.array(scores))
    surprises = [tail.surprise(score) for score in sorted(asked)]
    assert all(a <= b for a, b in itertools.pairwise(surprises))
    assert surprises[0] >= 0


def test_tail_of_nearly_equal_scores() -> None:
    """Scores so close together that their variance is no number above 0 still make a tail."""
    tail = BenignTail(np.arange(40) * 1e-200)
    assert 0 <= tail.surprise(3.8e-199) <= tail.surprise(1.0) < math.inf


def test_tail_ranks_beyond_all_benign_scores() -> None:
    """Scores above every benign one still rank, where an empirical p-value would tie them."""
    tail = BenignTail(NORMAL)
    top = float(NORMAL.max())
    assert tail.surprise(top) < tail.surprise(top + 1) < tail.surprise(top + 100) < math.inf


@pytest.mark.parametrize("quantile", [0.5, 0.75, 0.9, 0.99])
def test_tail_is_about_minus_log_p(quantile: float) -> None:
    """A surprise is about minus the log of the chance of a benign score as large, capped at one in ten in the body."""
    exponential = np.random.default_rng(1).exponential(size=20_000)
    score = -math.log(1 - quantile)
    assert BenignTail(exponential).surprise(score) == pytest.approx(score, abs=0.15)


def test_constant_scores() -> None:
    """Where all benign scores are one number, that number is no surprise and any larger one is a great one."""
    tail = BenignTail(np.full(100, 0.25))
    assert tail.surprise(0.25) == 0
    assert tail.surprise(0.0) == 0
    assert 1e3 < tail.surprise(0.26) < math.inf


@pytest.mark.parametrize(("two_sided", "low_surprises"), [(True, True), (False, False)])
def test_sides(two_sided: bool, low_surprises: bool) -> None:  # noqa: FBT001 - a table
    """Two-sided detectors are surprised by scores far too low as by scores far too high; others by high ones only."""
    surprise = Surprise(np.concatenate([NORMAL, -NORMAL]), two_sided=two_sided)
    assert surprise(6.0) > 5
    assert surprise(0.0) == pytest.approx(0 if two_sided else math.log(2), abs=0.01)
    assert (surprise(-6.0) > 5) is low_surprises
    if two_sided:
        assert surprise(-6.0) == pytest.approx(surprise(6.0))


@given(asked=st.lists(FINITE, min_size=2, max_size=20))
def test_two_sided_grows_away_from_the_middle(asked: list[float]) -> None:
    """A two-sided surprise never shrinks on the way out, on either side."""
    surprise = Surprise(NORMAL, two_sided=True)
    middle = float(np.median(NORMAL))
    for sign in (-1, 1):
        outward = [surprise(middle + sign * abs(offset)) for offset in sorted(asked, key=abs)]
        assert all(a <= b for a, b in itertools.pairwise(outward))


def test_missing_reference_scores_are_ignored() -> None:
    """A detector that abstained or failed on a benign sample (NaN) leaves no trace in what is ordinary."""
    holes = np.concatenate([NORMAL[:60], [np.nan, np.inf, -np.inf], NORMAL[60:100]])
    with_holes, without = Surprise(holes, two_sided=True), Surprise(NORMAL[:100], two_sided=True)
    assert [with_holes(s) for s in (-5.0, 0.1, 2.0, 9.0)] == [without(s) for s in (-5.0, 0.1, 2.0, 9.0)]


@pytest.mark.parametrize("two_sided", [True, False])
def test_detector_that_never_scored(two_sided: bool) -> None:  # noqa: FBT001 - a table
    """A detector that gave no benign sample a score can't be surprised, and breaks nothing."""
    assert Surprise(np.full(60, np.nan), two_sided=two_sided)(5.0) == 0
