"""Where height, width and channels of an input are, for all that looks at images as images.

A profile says it; where nobody did, it is told by the shape, channels being first where both readings fit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt
from jaxtyping import Float

from guard.values import Layout, ModelInfo

if TYPE_CHECKING:  # torch takes a second to import, and commands that load no model need none of it
    from torch import Tensor

_CHANNELS: Final = (1, 3, 4)
_MATRIX: Final = 2
_IMAGE: Final = 3
_RANKS: Final = {Layout.HW: _MATRIX, Layout.CHW: _IMAGE, Layout.HWC: _IMAGE}


def layout_of(shape: tuple[int, ...]) -> Layout:
    """The layout of inputs of this shape, without batch dimension: images have 1, 3 or 4 channels."""
    if len(shape) == _MATRIX and min(shape) > 1:
        return Layout.HW
    if len(shape) == _IMAGE and shape[0] in _CHANNELS:
        return Layout.CHW
    return Layout.HWC if len(shape) == _IMAGE and shape[-1] in _CHANNELS else Layout.NONE


def of_model(info: ModelInfo) -> Layout:
    """The layout of a model's inputs."""
    return info.layout or layout_of(info.shape)


def fits(layout: Layout, shape: tuple[int, ...]) -> bool:
    """Whether inputs of this shape can have the layout."""
    return layout is Layout.NONE or len(shape) == _RANKS[layout]


def ambiguous(shape: tuple[int, ...]) -> bool:
    """Whether channels may be first and last."""
    return len(shape) == _IMAGE and shape[0] in _CHANNELS and shape[-1] in _CHANNELS


def is_image(shape: tuple[int, ...], layout: Layout | None = None) -> bool:
    """Whether inputs of this shape are images."""
    return (layout or layout_of(shape)) is not Layout.NONE


def planes(
    x: Float[npt.NDArray[np.float32], "*dims"], layout: Layout | None = None
) -> Float[npt.NDArray[np.float32], "channels height width"]:
    """View one image as CHW."""
    match layout or layout_of(x.shape):
        case Layout.HW:
            return x[None]
        case Layout.HWC:
            return np.moveaxis(x, -1, 0)
        case _:
            return x


def all_planes(
    x: Float[npt.NDArray[np.float32], "batch *dims"], layout: Layout | None = None
) -> Float[npt.NDArray[np.float32], "batch channels height width"]:
    """View images as NCHW."""
    match layout or layout_of(x.shape[1:]):
        case Layout.HW:
            return x[:, None]
        case Layout.HWC:
            return np.moveaxis(x, -1, 1)
        case _:
            return x


def to_channels_first(
    x: Float[Tensor, "batch *dims"], layout: Layout | None = None
) -> Float[Tensor, "batch channels height width"]:
    """View a batch of images as NCHW."""
    match layout or layout_of(tuple(x.shape[1:])):
        case Layout.HW:
            return x.unsqueeze(1)
        case Layout.HWC:
            return x.movedim(-1, 1)
        case _:
            return x


def from_channels_first(
    x: Float[Tensor, "batch channels height width"], shape: tuple[int, ...], layout: Layout | None = None
) -> Float[Tensor, "batch *dims"]:
    """Undo `to_channels_first` for inputs of `shape`."""
    match layout or layout_of(shape):
        case Layout.HW:
            return x.squeeze(1)
        case Layout.HWC:
            return x.movedim(1, -1)
        case _:
            return x
