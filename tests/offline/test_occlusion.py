"""Choosing masks by what a model does on benign samples."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch
from structlog.testing import capture_logs
from torch import Tensor

from guard.errors import DataError
from guard.offline.occlusion import choose_occlusion
from guard.profile import spec
from tests.offline.parts import Ruled

SIDE = 24
DARK = np.full((6, 1, SIDE, SIDE), 0.1, np.float32)
MARKED = DARK.copy()
MARKED[..., 0, 0] = 1.0


def corner(x: Tensor) -> Tensor:
    """Whether a mark is in the corner, where one mask of any grid covers it."""
    return x[:, 0, 0, 0] > 0.9


def steady(x: Tensor) -> Tensor:
    """The same for all."""
    return torch.ones(len(x))


def test_steady_model_gets_the_coarsest_grid() -> None:
    """Where no mask moves a label the fewest masks do, sized for a sticker of a twentieth of the image."""
    chosen = choose_occlusion(Ruled(steady, (1, SIDE, SIDE)), DARK)
    assert chosen == spec.OcclusionSpec(image_px=(SIDE, SIDE), patch_px=6, grid=3, fill=(0.5,))


@pytest.mark.parametrize(
    ("most_evaluations", "pairs", "grid"),
    [
        (10.0, "recover", 3),  # there is no coarser one
        (30.9, "recover", 3),
        (31.0, "recover", 4),  # 16 masks, and 15 pairs with the one that covers the mark
        (40.0, "skip", 5),
        (1000.0, "recover", 5),  # one mask in 25 is steady enough
    ],
)
def test_finest_grid_that_is_affordable(most_evaluations: float, pairs: Literal["skip", "recover"], grid: int) -> None:
    """Finer grids are taken for as long as benign inputs can afford them, pairs counted, and are steadier."""
    chosen = choose_occlusion(Ruled(corner, (1, SIDE, SIDE)), MARKED, pairs=pairs, most_evaluations=most_evaluations)
    assert chosen is not None
    assert (chosen.grid, chosen.pairs) == (grid, pairs)


@pytest.mark.parametrize("shape", [(1, SIDE, SIDE), (SIDE, SIDE), (3, SIDE, SIDE), (SIDE, SIDE, 3)], ids=str)
def test_colour_that_moves_fewer_labels(shape: tuple[int, ...]) -> None:
    """A model that minds grey gets masks of the mean colour of its samples; one that minds that gets grey."""
    samples = np.full((6, *shape), 0.1, np.float32)
    samples[:3] = 0.2
    minds_grey = Ruled(lambda x: x.flatten(1).amax(dim=1) > 0.4, shape)
    chosen = choose_occlusion(minds_grey, samples)
    assert chosen is not None
    assert chosen.fill == pytest.approx((0.15,) * (3 if 3 in shape else 1), abs=1e-6)
    minds_mean = Ruled(lambda x: ((x > 0.14) & (x < 0.16)).flatten(1).any(dim=1), shape)
    chosen = choose_occlusion(minds_mean, samples)
    assert chosen is not None
    assert chosen.fill == (0.5,)


def test_middle_of_the_model_s_own_range() -> None:
    """Colours are in the model's units."""
    chosen = choose_occlusion(Ruled(steady, (1, SIDE, SIDE), (0.0, 255.0)), DARK)
    assert chosen is not None
    assert chosen.fill == (127.5,)


@pytest.mark.parametrize("shape", [(400,), (5, SIDE, SIDE), (1, 8, 8), (15, 15)], ids=str)
def test_no_masks_for_what_is_no_image_or_tiny(shape: tuple[int, ...]) -> None:
    """Of vectors, stacks and tiny images nothing is asked at all."""
    backend = Ruled(steady, shape)
    assert choose_occlusion(backend, np.zeros((10, *shape), np.float32)) is None
    assert backend.batches == []


def test_no_masks_for_large_stickers() -> None:
    """A sticker of more than half the side would leave no image beside its mask."""
    assert choose_occlusion(Ruled(steady, (1, SIDE, SIDE)), DARK, patch_area=0.3) is None
    larger = choose_occlusion(Ruled(steady, (1, SIDE, SIDE)), DARK, patch_area=0.25)
    assert larger is not None
    assert larger.patch_px == 12


def test_touchy_model_goes_without() -> None:
    """Where masks move most labels there is a warning, and no such detector."""
    touchy = Ruled(lambda x: ((x < 0.15) | (x > 0.9)).flatten(1).all(dim=1), (1, SIDE, SIDE))
    samples = DARK.copy()
    samples[..., :10] = 1.0
    with capture_logs() as logs:
        assert choose_occlusion(touchy, samples) is None
    assert [(log["log_level"], log["label_change_rate"]) for log in logs] == [("warning", 1.0)]
    assert "occlusion would tell little" in logs[0]["event"]


def test_failing_model() -> None:
    """A model that fails on masked copies is told of, with the sample."""

    def fails(x: Tensor) -> Tensor:
        if (x == 0.5).any():
            raise RuntimeError("no grey")
        return steady(x)

    with capture_logs(), pytest.raises(DataError, match=r"sample 0 can't be screened \(occlusion: backend\)"):
        choose_occlusion(Ruled(fails, (1, SIDE, SIDE)), DARK)
