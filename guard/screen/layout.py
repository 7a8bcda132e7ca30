"""Where height and width are in an input, for the copies that are made in space."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from jaxtyping import Float
from torch import Tensor

_CHANNELS = (1, 3, 4)
_MATRIX = 2
_IMAGE = 3


def is_image(shape: tuple[int, ...]) -> bool:
    """Whether an input of this shape, without batch dimension, is an image: HW, CHW or HWC with 1, 3 or 4 channels."""
    if len(shape) == _MATRIX:
        return min(shape) > 1
    return len(shape) == _IMAGE and (shape[0] in _CHANNELS or shape[-1] in _CHANNELS)


def planes(x: Float[npt.NDArray[np.float32], "*dims"]) -> Float[npt.NDArray[np.float32], "channels height width"]:
    """View one image as CHW."""
    if x.ndim == _MATRIX:
        return x[None]
    return x if x.shape[0] in _CHANNELS else np.moveaxis(x, -1, 0)


def to_channels_first(x: Float[Tensor, "batch *dims"]) -> Float[Tensor, "batch channels height width"]:
    """View a batch of images as NCHW. CHW is preferred where both readings fit."""
    shape = tuple(x.shape[1:])
    if len(shape) == _MATRIX:
        return x.unsqueeze(1)
    return x if shape[0] in _CHANNELS else x.movedim(-1, 1)


def from_channels_first(
    x: Float[Tensor, "batch channels height width"], shape: tuple[int, ...]
) -> Float[Tensor, "batch *dims"]:
    """Undo `to_channels_first` for inputs of `shape`."""
    if len(shape) == _MATRIX:
        return x.squeeze(1)
    return x if shape[0] in _CHANNELS else x.movedim(1, -1)
