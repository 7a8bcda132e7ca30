"""Clients that attack nobody, as the streams of inputs that they send."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import cv2
import numpy as np

from guard.values import Float32Array

_RETRIES = 5
_FRAMES = 50
_TIMES = 3


def shifted(image: Float32Array, down: int, right: int) -> Float32Array:
    """Move an image (channels, height, width) by up to two pixels; edges are replicated."""
    _, height, width = image.shape
    padded = np.pad(image, ((0, 0), (2, 2), (2, 2)), mode="edge")
    return padded[:, 2 + down : 2 + down + height, 2 + right : 2 + right + width]


def slightly_changed(image: Float32Array, rng: np.random.Generator) -> Float32Array:
    """Shift by up to a pixel, contrast within a tenth, brightness within .05, and noise of .02: an attacker's too."""
    down, right = rng.integers(-1, 2, 2)
    moved = shifted(image, int(down), int(right)) * rng.uniform(0.9, 1.1) + rng.uniform(-0.05, 0.05)
    return np.clip(moved + rng.normal(0, 0.02, moved.shape), 0, 1).astype(np.float32)


def _retries(images: Float32Array, _rng: np.random.Generator) -> Iterator[Float32Array]:
    for image in images:
        yield from [image] * _RETRIES


def _one_image(images: Float32Array, _rng: np.random.Generator) -> Iterator[Float32Array]:
    yield from images[:1]


def _twice(images: Float32Array, _rng: np.random.Generator) -> Iterator[Float32Array]:
    """Each image, and once more as a JPEG of quality 90."""
    for image in images:
        yield image
        yield _jpeg(image, 90)


def _three_times(images: Float32Array, _rng: np.random.Generator) -> Iterator[Float32Array]:
    """Each image, and as JPEGs of two qualities."""
    for image in images:
        yield from (image, _jpeg(image, 90), _jpeg(image, 75))


def _encodings(images: Float32Array, _rng: np.random.Generator) -> Iterator[Float32Array]:
    """Each image as JPEGs of several qualities."""
    for image in images:
        yield image
        for quality in (95, 85, 75)[:_TIMES]:
            yield _jpeg(image, quality)


def _camera(images: Float32Array, rng: np.random.Generator) -> Iterator[Float32Array]:
    """A camera that doesn't move: one scene with a sensor's noise."""
    for _ in range(_FRAMES):
        yield np.clip(images[0] + rng.normal(0, 2 / 255, images[0].shape), 0, 1).astype(np.float32)


def _jpeg(image: Float32Array, quality: int) -> Float32Array:
    levels = np.rint(image.transpose(1, 2, 0) * 255).astype(np.uint8)
    _, content = cv2.imencode(".jpg", levels, [cv2.IMWRITE_JPEG_QUALITY, quality])
    flag = cv2.IMREAD_GRAYSCALE if len(image) == 1 else cv2.IMREAD_COLOR
    again = np.asarray(cv2.imdecode(content, flag), np.float32).reshape(levels.shape)
    return np.ascontiguousarray(again.transpose(2, 0, 1)) / np.float32(255)


STREAMS: Final[dict[str, tuple[bool, Callable[[Float32Array, np.random.Generator], Iterator[Float32Array]]]]] = {
    "each image five times": (False, _retries),
    "the same image from every client": (True, _one_image),
    "each image, and again as a JPEG": (False, _twice),
    "each image as three encodings": (False, _three_times),
    "each image as four encodings": (False, _encodings),
    "a fixed camera, 50 noisy frames": (False, _camera),
}
"""Streams by name, and whether all clients draw on the same images."""
