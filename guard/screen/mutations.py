"""Making copies: one function a mutation, an explicit generator, no loop over a batch in any detector."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import cv2
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from guard.errors import ConfigError
from guard.profile import spec
from guard.screen.layout import from_channels_first, is_image, to_channels_first

Bounds: TypeAlias = tuple[float, float]
_LEVELS_8_BIT = 255.0


def copies(
    mutation: spec.Mutation, x: Float[Tensor, "*dims"], count: int, rng: np.random.Generator, bounds: Bounds
) -> Float[Tensor, "{count} *dims"]:
    """Make `count` copies of one input. Random ones take their draws from `rng` in order, so chunking changes nothing.

    Raises:
        ConfigError: a mutation in space, of an input that is no image.
    """
    if isinstance(mutation, (spec.ShiftRotate, spec.Median, spec.NonLocalMeans)) and not is_image(tuple(x.shape)):
        raise ConfigError(f"{mutation.kind} needs images, and the model takes shape {list(x.shape)}: leave it out")
    make = _MAKERS[type(mutation)]
    return make(mutation, x, count, rng, bounds)


def _identity(
    _mutation: spec.Identity, x: Float[Tensor, "*dims"], count: int, _rng: np.random.Generator, _bounds: Bounds
) -> Float[Tensor, "count *dims"]:
    return x.expand(count, *x.shape)


def _gaussian(
    mutation: spec.Gaussian, x: Float[Tensor, "*dims"], count: int, rng: np.random.Generator, _bounds: Bounds
) -> Float[Tensor, "count *dims"]:
    noise = torch.from_numpy(rng.standard_normal((count, *x.shape), dtype=np.float32))
    return noise.mul_(mutation.sigma).add_(x)


def _uniform(
    mutation: spec.Uniform, x: Float[Tensor, "*dims"], count: int, rng: np.random.Generator, bounds: Bounds
) -> Float[Tensor, "count *dims"]:
    noise = torch.from_numpy(rng.random((count, *x.shape), dtype=np.float32))
    return noise.mul_(2 * mutation.width).sub_(mutation.width).add_(x).clamp_(*bounds)


def _shift_rotate(
    mutation: spec.ShiftRotate, x: Float[Tensor, "*dims"], count: int, rng: np.random.Generator, _bounds: Bounds
) -> Float[Tensor, "count *dims"]:
    draws = torch.from_numpy(rng.uniform(-1, 1, (count, 3)).astype(np.float32))
    image = to_channels_first(x.expand(count, *x.shape))
    height, width = image.shape[-2:]
    angle = torch.deg2rad(draws[:, 0] * mutation.max_degrees)
    cos, sin = torch.cos(angle), torch.sin(angle)
    # affine_grid's coordinates run from -1 to 1 along each axis: a pixel is 2 / size, a rotation needs the aspect.
    affine = torch.stack(
        [
            torch.stack([cos, -sin * height / width, draws[:, 1] * mutation.max_shift_px * 2 / width], dim=1),
            torch.stack([sin * width / height, cos, draws[:, 2] * mutation.max_shift_px * 2 / height], dim=1),
        ],
        dim=1,
    )
    grid = torch.nn.functional.affine_grid(affine, list(image.shape), align_corners=False)
    moved = torch.nn.functional.grid_sample(image, grid, padding_mode="border", align_corners=False)
    return from_channels_first(moved, tuple(x.shape))


def _contrast_brightness(
    mutation: spec.ContrastBrightness, x: Float[Tensor, "*dims"], count: int, rng: np.random.Generator, bounds: Bounds
) -> Float[Tensor, "count *dims"]:
    draws = torch.from_numpy(rng.uniform(-1, 1, (count, 2)).astype(np.float32))
    shape = (count,) + (1,) * x.ndim
    gain = (1 + draws[:, 0] * mutation.contrast).reshape(shape)
    offset = (draws[:, 1] * mutation.brightness * (bounds[1] - bounds[0])).reshape(shape)
    mean = x.mean()
    return ((x - mean) * gain + mean + offset).clamp_(*bounds)


def _bit_depth(
    mutation: spec.BitDepth, x: Float[Tensor, "*dims"], count: int, _rng: np.random.Generator, bounds: Bounds
) -> Float[Tensor, "count *dims"]:
    levels = 2**mutation.bits - 1
    span = bounds[1] - bounds[0]
    squeezed: Tensor = torch.round((x - bounds[0]) / span * levels) / levels * span + bounds[0]
    return squeezed.expand(count, *x.shape)


def _median(
    mutation: spec.Median, x: Float[Tensor, "*dims"], count: int, _rng: np.random.Generator, _bounds: Bounds
) -> Float[Tensor, "count *dims"]:
    image = to_channels_first(x[None]).contiguous()
    planes = [cv2.medianBlur(plane.cpu().numpy(), mutation.size) for plane in image[0]]
    filtered = torch.from_numpy(np.stack(planes))[None]
    return from_channels_first(filtered, tuple(x.shape)).expand(count, *x.shape)


def _non_local_means(
    mutation: spec.NonLocalMeans, x: Float[Tensor, "*dims"], count: int, _rng: np.random.Generator, bounds: Bounds
) -> Float[Tensor, "count *dims"]:
    span = bounds[1] - bounds[0]
    image = to_channels_first(x[None])[0]
    levels = ((image - bounds[0]) / span * _LEVELS_8_BIT).round().clamp(0, _LEVELS_8_BIT).to(torch.uint8)
    planes = [
        cv2.fastNlMeansDenoising(
            np.ascontiguousarray(plane.cpu().numpy()),
            h=mutation.h,
            templateWindowSize=mutation.template_px,
            searchWindowSize=mutation.search_px,
        )
        for plane in levels
    ]
    filtered = torch.from_numpy(np.stack(planes))[None].to(torch.float32) / _LEVELS_8_BIT * span + bounds[0]
    return from_channels_first(filtered, tuple(x.shape)).expand(count, *x.shape)


_Maker: TypeAlias = Callable[..., Float[Tensor, "count *dims"]]
_MAKERS: dict[type[spec.Mutation], _Maker] = {
    spec.Identity: _identity,
    spec.Gaussian: _gaussian,
    spec.Uniform: _uniform,
    spec.ShiftRotate: _shift_rotate,
    spec.ContrastBrightness: _contrast_brightness,
    spec.BitDepth: _bit_depth,
    spec.Median: _median,
    spec.NonLocalMeans: _non_local_means,
}
