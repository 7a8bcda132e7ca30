"""Which mutation calibration's attacks stand out under."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from guard.errors import DataError
from guard.offline.telling import KINDS, Telling, most_telling, mutation_of
from guard.profile import spec
from tests.offline.parts import Ruled


def rng() -> np.random.Generator:
    """The same draws each time."""
    return np.random.default_rng(0)


class Dip(Ruled):
    """A margin of one everywhere but around 2, where it is small."""

    def __init__(self) -> None:
        super().__init__(lambda x: x[:, 0] >= 0, (2,))

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """The margin, and 0 for the other class."""
        dip = 0.8 * torch.exp(-((x[:, 0] - 2) ** 2) / (2 * 0.1**2))
        return torch.stack([torch.zeros(len(x)), 1 - dip + 0.001 * x[:, 1]], dim=1)


def test_the_most_telling_noise() -> None:
    """What lies beside a place of small margins shows only when noise reaches it; what lies there shows under any."""
    benign = np.column_stack([np.full(96, 8.0), np.linspace(-1, 1, 96)]).astype(np.float32)
    beside, within = (np.full((10, 2), (at, 0.0), np.float32) for at in (2.6, 2.0))
    assert most_telling(Dip(), benign, [beside], (0.01, 0.35), rng()).mutation == spec.Gaussian(sigma=0.35)
    assert most_telling(Dip(), benign, [within], (0.01, 0.02), rng()).mutation == spec.Gaussian(sigma=0.01)


class Corner(Ruled):
    """Sure while the upper left quarter of an image is dark, however noisy it is: a shift can carry light there."""

    def __init__(self) -> None:
        super().__init__(lambda x: x.mean(dim=(1, 2, 3)) >= 0, (1, 8, 8))

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """How dark it is there, and 0 for the other class."""
        light = x[:, 0, :4, :4].amax(dim=(1, 2))
        return torch.stack([torch.zeros(len(x)), 1 - light], dim=1)


def test_another_kind_takes_the_place_of_noise() -> None:
    """Light beside the corner shows where images are shifted, and under no noise; what tells no more is not taken."""
    benign = np.zeros((96, 1, 8, 8), np.float32)
    benign[:, 0, 7, 7] = np.linspace(0.1, 0.2, 96)
    attacks = benign[:10].copy()
    attacks[:, 0, :4, 4] = 1
    found = most_telling(Corner(), benign, [attacks], (0.01, 0.02), rng())
    assert (found.mutation, found.told["shift_rotate"]) == (spec.ShiftRotate(), 1)
    assert found.told["gaussian"] < 0.5
    assert set(found.told) == {"gaussian", *KINDS}
    same = most_telling(Corner(), benign, [benign[:10]], (0.01, 0.02), rng())
    assert isinstance(same.mutation, spec.Gaussian)


def test_what_is_no_image_is_not_shifted() -> None:
    """Rows of numbers have no place to be shifted to."""
    found = most_telling(Dip(), np.full((96, 2), 8, np.float32), [np.full((10, 2), 2, np.float32)], (0.01,), rng())
    assert set(found.told) == {"gaussian", "uniform", "contrast_brightness"}


def test_further_kinds() -> None:
    """Those that were asked for are added once, with noise as strong as the Gaussian that tells most."""
    uniform = mutation_of("uniform", 0.1)
    telling = Telling(uniform, 0.1, {})
    assert uniform == spec.Uniform(width=0.1 * 3**0.5)
    assert telling.with_kinds(("uniform", "contrast_brightness")) == (uniform, spec.ContrastBrightness())
    with pytest.raises(DataError, match=r"'blur'.*choose uniform, shift_rotate or contrast_brightness"):
        telling.with_kinds(("blur",))
