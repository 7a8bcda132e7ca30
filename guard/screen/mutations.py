"""Making copies: one function a mutation, which fills the rows of many inputs at once; noise from their own streams."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float

from guard.errors import ConfigError
from guard.layout import from_channels_first, is_image, planes, to_channels_first
from guard.profile import spec
from guard.screen.keystream import Draw, gaussians, seeded, uniforms
from guard.values import Float32Array, Layout

Bounds: TypeAlias = tuple[float, float]
_LEVELS_8_BIT = 255.0
_IN_SPACE = (spec.ShiftRotate, spec.Median, spec.NonLocalMeans, spec.Mask)


class Wanted(NamedTuple):
    """So many copies of `x` from the one numbered `start` on, with their noise if the mutation draws any."""

    x: Float[npt.NDArray[np.float32], "*dims"]
    copies: int
    noise: Draw | None = None
    start: int = 0


def make(
    mutation: spec.Mutation,
    wanted: Sequence[Wanted],
    out: Float[npt.NDArray[np.float32], "copies *dims"],
    bounds: Bounds,
    layout: Layout | None = None,
) -> None:
    """Fill `out` with copies, input after input. Without a layout the shape tells.

    Raises:
        ConfigError: a mutation in space, of an input that is no image, or a mask for images of another size.
    """
    shape = tuple(out.shape[1:])
    if not isinstance(mutation, _IN_SPACE):
        _MAKERS[type(mutation)](mutation, wanted, out, bounds)
        return
    if not is_image(shape, layout):
        raise ConfigError(f"{mutation.kind} needs images, and the model takes shape {list(shape)}: leave it out")
    _MAKERS_IN_SPACE[type(mutation)](mutation, wanted, out, bounds, layout)


def copies(  # noqa: PLR0917 - as `make`, and what is drawn from
    mutation: spec.Mutation,
    x: Float[npt.NDArray[np.float32], "*dims"],
    count: int,
    rng: np.random.Generator,
    bounds: Bounds,
    layout: Layout | None = None,
) -> Float[npt.NDArray[np.float32], "{count} *dims"]:
    """Copies of one input for work that must repeat with a seed, and keeps no secret.

    Raises:
        ConfigError: as `make`.
    """
    made = np.empty((count, *x.shape), dtype=np.float32)
    make(mutation, (Wanted(x, count, seeded(rng, count)),), made, bounds, layout)
    return made


def _rows(wanted: Sequence[Wanted], out: Float32Array) -> Iterator[tuple[Float32Array, Float32Array]]:
    """Each input with its own rows."""
    start = 0
    for x, count, *_ in wanted:
        yield x, out[start : start + count]
        start += count


def _draws(wanted: Sequence[Wanted]) -> list[Draw]:
    return [each.noise for each in wanted if each.noise is not None]


def _identity(_mutation: spec.Identity, wanted: Sequence[Wanted], out: Float32Array, _bounds: Bounds) -> None:
    for x, rows in _rows(wanted, out):
        rows[:] = x


def _gaussian(mutation: spec.Gaussian, wanted: Sequence[Wanted], out: Float32Array, _bounds: Bounds) -> None:
    gaussians(_draws(wanted), mutation.sigma, out.reshape(len(out), -1))
    for x, rows in _rows(wanted, out):
        np.add(rows, x, out=rows)


def _uniform(mutation: spec.Uniform, wanted: Sequence[Wanted], out: Float32Array, bounds: Bounds) -> None:
    noise = uniforms(_draws(wanted), out[0].size).reshape(out.shape)
    np.multiply(noise, np.float32(2 * mutation.width), out=out)
    out -= np.float32(mutation.width)
    for x, rows in _rows(wanted, out):
        np.add(rows, x, out=rows)
    np.clip(out, *bounds, out=out)


def _shift_rotate(
    mutation: spec.ShiftRotate, wanted: Sequence[Wanted], out: Float32Array, _bounds: Bounds, layout: Layout | None
) -> None:
    draws = torch.from_numpy(2 * uniforms(_draws(wanted), 3) - 1)
    repeated = np.concatenate([np.broadcast_to(x, (count, *x.shape)) for x, count, *_ in wanted])
    image = to_channels_first(torch.from_numpy(repeated), layout)
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
    out[:] = from_channels_first(moved, tuple(out.shape[1:]), layout).numpy()


def _contrast_brightness(
    mutation: spec.ContrastBrightness, wanted: Sequence[Wanted], out: Float32Array, bounds: Bounds
) -> None:
    draws = 2 * uniforms(_draws(wanted), 2) - 1
    shape = (-1,) + (1,) * (out.ndim - 1)
    gain = (1 + draws[:, 0] * np.float32(mutation.contrast)).reshape(shape)
    offset = (draws[:, 1] * np.float32(mutation.brightness * (bounds[1] - bounds[0]))).reshape(shape)
    start = 0
    for x, rows in _rows(wanted, out):
        end = start + len(rows)
        mean = x.mean()
        rows[:] = (x - mean) * gain[start:end] + mean + offset[start:end]
        start = end
    np.clip(out, *bounds, out=out)


def _bit_depth(mutation: spec.BitDepth, wanted: Sequence[Wanted], out: Float32Array, bounds: Bounds) -> None:
    levels = 2**mutation.bits - 1
    span = bounds[1] - bounds[0]
    _identity(spec.Identity(), wanted, out, bounds)
    out -= np.float32(bounds[0])
    out *= np.float32(levels / span)
    np.rint(out, out=out)
    out *= np.float32(span / levels)
    out += np.float32(bounds[0])


def _median(
    mutation: spec.Median, wanted: Sequence[Wanted], out: Float32Array, _bounds: Bounds, layout: Layout | None
) -> None:
    _by_plane(lambda plane: np.asarray(cv2.medianBlur(plane, mutation.size), dtype=np.float32), wanted, out, layout)


def _non_local_means(
    mutation: spec.NonLocalMeans, wanted: Sequence[Wanted], out: Float32Array, bounds: Bounds, layout: Layout | None
) -> None:
    span = bounds[1] - bounds[0]

    def denoise(plane: Float32Array) -> Float32Array:
        levels = np.clip(np.rint((plane - bounds[0]) / span * _LEVELS_8_BIT), 0, _LEVELS_8_BIT).astype(np.uint8)
        smooth = cv2.fastNlMeansDenoising(
            levels, h=mutation.h, templateWindowSize=mutation.template_px, searchWindowSize=mutation.search_px
        )
        denoised: Float32Array = smooth.astype(np.float32) * np.float32(span / _LEVELS_8_BIT) + np.float32(bounds[0])
        return denoised

    _by_plane(denoise, wanted, out, layout)


def _mask(
    mutation: spec.Mask, wanted: Sequence[Wanted], out: Float32Array, _bounds: Bounds, layout: Layout | None
) -> None:
    height, width = mutation.window_px
    fill = np.array(mutation.fill, dtype=np.float32)[:, None, None]
    size = planes(out[0], layout).shape[1:]
    if size != mutation.image_px:
        raise ConfigError(
            f"a mask for images of {mutation.image_px} pixels can't cover those of {size}: calibrate again"
        )
    for each, (x, rows) in zip(wanted, _rows(wanted, out), strict=True):
        rows[:] = x
        for made, places in zip(rows, mutation.covers[each.start : each.start + each.copies], strict=True):
            image = planes(made, layout)
            for top, left in places:
                image[:, top : top + height, left : left + width] = fill


def _by_plane(
    function: Callable[[Float32Array], Float32Array],
    wanted: Sequence[Wanted],
    out: Float32Array,
    layout: Layout | None,
) -> None:
    """Apply a function of (height, width) to each channel of each image."""
    for x, rows in _rows(wanted, out):
        for plane, made in zip(planes(x, layout), planes(rows[0], layout), strict=True):
            made[:] = function(np.ascontiguousarray(plane))
        rows[1:] = rows[0]


_Maker: TypeAlias = Callable[..., None]
_MAKERS: dict[type[spec.Mutation], _Maker] = {
    spec.Identity: _identity,
    spec.Gaussian: _gaussian,
    spec.Uniform: _uniform,
    spec.ContrastBrightness: _contrast_brightness,
    spec.BitDepth: _bit_depth,
}
_MAKERS_IN_SPACE: dict[type[spec.Mutation], _Maker] = {
    spec.ShiftRotate: _shift_rotate,
    spec.Median: _median,
    spec.NonLocalMeans: _non_local_means,
    spec.Mask: _mask,
}
