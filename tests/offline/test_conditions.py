"""Conditions that a deployment expects: how they are written, and how strong they are drawn."""

from __future__ import annotations

import numpy as np
import pytest

from guard.errors import ConfigError
from guard.offline.conditions import EXPECTED, drawn, possible
from guard.offline.options import parse
from guard.offline.view import hashes
from guard.profile.spec import Condition

RNG = np.random.default_rng(0)
GREY = np.full((400, 3, 8, 8), 128, np.uint8)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("jpeg:70", Condition(kind="jpeg", most=70)), ("blur:0.6", Condition(kind="blur", most=0.6))],
)
def test_written_as_kind_and_severity(text: str, expected: Condition) -> None:
    """A kind, a colon, the severest."""
    assert parse(text) == expected


@pytest.mark.parametrize("text", ["jpeg", "jpeg:", "jpeg:0", "jpeg:400", "fog:1", "noise:-2", "noise:nan", ":5", ""])
def test_mistakes_name_the_option_and_the_choices(text: str) -> None:
    """What is none is named as it was typed, with what could be."""
    with pytest.raises(ConfigError, match="--condition " + text) as caught:
        parse(text)
    assert "noise:0.5 to noise:64" in str(caught.value)


def test_no_more_than_was_declared() -> None:
    """Brightness moves by what was declared at most, in half of the images by just that."""
    declared = (Condition(kind="brightness", most=0.1),)
    change = np.abs(drawn(declared, GREY, np.random.default_rng(1)).images[:, 0, 0, 0].astype(int) - 128)
    assert change.max() <= 26
    assert 0.3 < (change >= 25).mean() < 0.7
    assert 2 <= change.min() <= 4


def test_brightness_is_a_shift() -> None:
    """By whole levels: all even and odd levels stay, wherever they end."""
    images = np.arange(40, 200, dtype=np.uint8).reshape(1, 1, 8, 20).repeat(20, axis=0)
    moved = drawn((Condition(kind="brightness", most=0.1),), images, np.random.default_rng(3)).images
    steps = moved.astype(int) - images
    np.testing.assert_array_equal(steps.min(axis=(1, 2, 3)), steps.max(axis=(1, 2, 3)))


def test_each_condition_is_drawn() -> None:
    """All declared conditions change some images, and the same draws change them the same."""
    images = RNG.integers(0, 256, (60, 3, 16, 16), dtype=np.uint8)
    for each in EXPECTED:
        changed = drawn((each,), images, np.random.default_rng(2)).images
        assert (changed != images).any(axis=(1, 2, 3)).mean() > 0.6, each  # the least blur changes nothing
        np.testing.assert_array_equal(changed, drawn((each,), images, np.random.default_rng(2)).images)
    np.testing.assert_array_equal(drawn((), images, RNG).images, images)


def test_what_was_drawn_is_told() -> None:
    """The condition that each image is under."""
    declared = (Condition(kind="brightness", most=0.1), Condition(kind="noise", most=8))
    images, chosen = drawn(declared, GREY, np.random.default_rng(4))
    even = images.std(axis=(1, 2, 3)) == 0
    np.testing.assert_array_equal(even, chosen == 0)
    assert set(chosen.tolist()) == {0, 1}


def test_inputs_that_are_no_images_have_fewer() -> None:
    """Noise, brightness and contrast can be had anywhere; the rest needs an image."""
    assert {each.kind for each in possible(EXPECTED, image=False)} == {"noise", "brightness", "contrast"}
    assert possible(EXPECTED, image=True) == EXPECTED


def test_hashes_tell_images_apart() -> None:
    """One value more or less is another hash."""
    images = RNG.integers(0, 255, (50, 1, 4, 4), dtype=np.uint8)
    other = images.copy()
    other[:, 0, 0, 0] += 1
    assert len(set(hashes(images).tolist())) == 50
    assert not np.isin(hashes(other), hashes(images)).any()
    np.testing.assert_array_equal(hashes(images), hashes(images.copy()))
