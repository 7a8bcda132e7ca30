"""Whether flagged inputs of different content share one perturbation: a universal one, or a sticker.

It tells whoever responds that there is one campaign behind many flags (Moosavi-Dezfooli et al., 2017; Brown et al.,
2017). It is looked for after the verdict, on flagged items only, and changes none.

A residual is what is left of an image when all of its frequencies are made equally strong (Kuglin and Hines, 1975), in
brightness and two differences of colours, and of that the signs: one bit a value. What natural images have in common is
in the magnitudes, so residuals of unrelated images agree as coins do: the correlation of two with d bits has a
deviation of 1 to 1.4 / sqrt(d), on digits, small and large photographs, perturbed each in its own way or not. A common
perturbation is spread over all frequencies, and most of these are weak in the images themselves.
"""

from __future__ import annotations

import math
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

import cv2
import numpy as np

from guard.layout import planes as planes_of
from guard.values import Float32Array, Float64Array, IntArray, Layout, SharedPerturbation, UInt64Array

NAME: Final = "universal"
"""The detector's name in findings and metrics."""

LEAST_VALUES: Final = 256
"""Smaller inputs have too few bits to tell chance from a common perturbation."""

_REMEMBERED: Final = 64
_LARGEST_PX: Final = 512
_COLOURS = 3
_DITHER = 1e-3
_CONTENT_PX = 8
_SAME_CONTENT = 0.8
_ABOVE_BENIGN, _LEAST_BENIGN = 5.0, 2.0
_WORD_BITS = 64


class UniversalWatch:
    """Compares each flagged item of one model with the last ones flagged. Close it, or its thread stays.

    Items are images of `shape`, with `span` the length of the model's range. `benign` (n, *shape) shows what they have
    in common anyway, such as a frame or a logo. Without a layout the shape tells.
    """

    def __init__(self, shape: tuple[int, ...], span: float, benign: Float32Array, layout: Layout | None = None) -> None:
        self._layout = layout
        self._shape, self._dither = shape, np.float32(_DITHER * span)
        self._rng = np.random.default_rng()
        first = _planes(np.zeros(shape, np.float32), layout)
        self._bits = first.size
        self._benign = np.array([self._residual(_planes(item, layout)) for item in benign])
        self._residuals = np.zeros((_REMEMBERED, math.ceil(self._bits / _WORD_BITS)), np.uint64)
        self._contents = np.zeros((_REMEMBERED, _CONTENT_PX**2), np.float32)
        self._used = self._next = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="guard-universal")

    def look(self, inputs: Float32Array) -> Future[tuple[SharedPerturbation, ...]]:
        """With how many flagged before each of these items (n, *shape) shares a perturbation. They are remembered."""
        return self._thread.submit(lambda: tuple(self._look(item) for item in inputs))

    def close(self) -> None:
        """Stop the thread."""
        self._thread.shutdown(cancel_futures=True)

    def _look(self, item: Float32Array) -> SharedPerturbation:
        started_s = time.perf_counter()
        planes = _planes(item, self._layout)
        residual, content = self._residual(planes), _content(planes)
        same = self._contents[: self._used] @ content >= _SAME_CONTENT
        others = self._residuals[: self._used][~same]
        noise = 1 / math.sqrt(self._bits)
        ordinary = max(float(self._correlations(self._benign, residual).max(initial=0.0)), _LEAST_BENIGN * noise)
        shared = self._correlations(others, residual) > ordinary + _ABOVE_BENIGN * noise
        self._remember(residual, content, same.nonzero()[0])
        return SharedPerturbation(
            NAME,
            shared_with=int(shared.sum()),
            compared_with=len(others),
            duration_s=time.perf_counter() - started_s,
        )

    def _residual(self, planes: Float32Array) -> UInt64Array:
        # A little noise, or all surfaces without any texture would be alike.
        spectrum = np.fft.rfft2(planes + self._dither * self._rng.standard_normal(planes.shape, np.float32))
        spectrum /= np.abs(spectrum) + np.finfo(np.float32).tiny
        bits = np.packbits(np.fft.irfft2(spectrum, planes.shape[1:]).ravel() > 0)
        return np.pad(bits, (0, -len(bits) % (_WORD_BITS // 8))).view(np.uint64)

    def _correlations(self, residuals: UInt64Array, residual: UInt64Array) -> Float64Array:
        differ = np.bitwise_count(residuals ^ residual).sum(axis=1, dtype=np.float64)
        correlations: Float64Array = 1 - 2 * differ / self._bits
        return correlations

    def _remember(self, residual: UInt64Array, content: Float32Array, same: IntArray) -> None:
        """In place of one of the same content, so that many of one image take no more room than one."""
        if len(same):
            place = int(same[0])
        else:
            place, self._next = self._next, (self._next + 1) % _REMEMBERED
            self._used = min(self._used + 1, _REMEMBERED)
        self._residuals[place], self._contents[place] = residual, content


def _planes(item: Float32Array, layout: Layout | None) -> Float32Array:
    """An image as (channels, height, width), at most its middle; three colours as brightness and two differences."""
    planes = planes_of(item, layout)
    top, left = (max(0, (length - _LARGEST_PX) // 2) for length in planes.shape[1:])
    planes = planes[:, top : top + _LARGEST_PX, left : left + _LARGEST_PX].astype(np.float32)
    if len(planes) != _COLOURS:
        return planes
    red, green, blue = planes
    return np.stack([red + green + blue, red - green, red + green - 2 * blue])


def _content(planes: Float32Array) -> Float32Array:
    """A thumbnail of the brightness, of mean 0 and norm 1: of what an image shows, not how it was perturbed."""
    small = cv2.resize(planes[0], (_CONTENT_PX, _CONTENT_PX), interpolation=cv2.INTER_AREA).ravel()
    centred = small - small.mean()
    content: Float32Array = (centred / max(float(np.linalg.norm(centred)), 1e-6)).astype(np.float32)
    return content
