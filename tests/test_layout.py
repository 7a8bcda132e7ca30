"""Where height, width and channels are: told, or by the shape."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from guard.layout import (
    all_planes,
    ambiguous,
    fits,
    from_channels_first,
    is_image,
    layout_of,
    planes,
    to_channels_first,
)
from guard.values import Layout

SHAPES = {
    (8, 8): Layout.HW,
    (1, 8): Layout.NONE,
    (3, 8, 9): Layout.CHW,
    (8, 9, 3): Layout.HWC,
    (8, 9, 1): Layout.HWC,
    (3, 9, 3): Layout.CHW,
    (12, 8, 9): Layout.NONE,
    (7,): Layout.NONE,
    (2, 3, 8, 8): Layout.NONE,
    (): Layout.NONE,
}


@pytest.mark.parametrize(("shape", "layout"), SHAPES.items(), ids=map(str, SHAPES))
def test_by_the_shape(shape: tuple[int, ...], layout: Layout) -> None:
    """Inputs with 1, 3 or 4 channels are images; where channels may be first and last, they are first."""
    assert layout_of(shape) is layout
    assert is_image(shape) is (layout is not Layout.NONE)
    assert ambiguous(shape) is (shape == (3, 9, 3))


@pytest.mark.parametrize(
    ("shape", "layout", "viewed"),
    [
        ((8, 9), None, (1, 8, 9)),
        ((3, 9, 3), None, (3, 9, 3)),
        ((3, 9, 4), Layout.HWC, (4, 3, 9)),
        ((12, 8, 9), Layout.CHW, (12, 8, 9)),
        ((8, 9, 12), Layout.HWC, (12, 8, 9)),
        ((8, 9, 3), None, (3, 8, 9)),
    ],
)
def test_there_and_back(shape: tuple[int, ...], layout: Layout | None, viewed: tuple[int, ...]) -> None:
    """A layout that was told wins over the shape, in arrays and tensors alike, and views are undone exactly."""
    x = np.random.default_rng(0).random((2, *shape), np.float32)
    first = to_channels_first(torch.from_numpy(x), layout)
    assert tuple(first.shape[1:]) == viewed
    np.testing.assert_array_equal(first.numpy(), all_planes(x, layout))
    np.testing.assert_array_equal(all_planes(x, layout)[1], planes(x[1], layout))
    np.testing.assert_array_equal(from_channels_first(first, shape, layout).numpy(), x)


def test_no_image_by_word() -> None:
    """Inputs that look like images are none where that is told; only shapes of the right rank have a layout."""
    assert not is_image((3, 8, 9), Layout.NONE)
    assert fits(Layout.NONE, (3, 8, 9))
    assert fits(Layout.HWC, (3, 8, 9))
    assert not fits(Layout.HWC, (8, 9))
    assert not fits(Layout.CHW, (2, 3, 8, 9))
