"""Secretly keyed fingerprints of images: inputs that look alike have fingerprints that differ in few bits.

An attacker who queries a model sends variations of one image. Blacklight (Li et al., 2022) finds those by hashes of
quantised windows that two inputs share, which noise of a few levels, another brightness or a shift by a pixel undo.
This fingerprint rests on the magnitudes of the low spatial frequencies. They do not change when the image is
shifted, and each is divided by those of its neighbourhood, so that neither brightness nor contrast, nor what all
natural images have in common, remains. What is kept is on which side of 512 secret hyperplanes it lies
(Charikar, 2002): the share of bits that differ is the angle between two inputs, and without the secret nobody can
compute the bits or choose them.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from guard.layout import all_planes, layout_of
from guard.values import Float32Array, Layout, UInt64Array

BITS: Final = 512
WORDS: Final = BITS // 64

_FORM = 1
"""Changes with whatever changes fingerprints or their bytes: replicas of two versions of Guard don't mix them up."""

_LARGEST_PX = 64
_FREQUENCIES = 9
_FINE_PX, _COARSE_PX = 0.7, 4.0
_NEIGHBOURHOOD = 1.5
_FLOOR = 0.05
_FLAT = 1 / 255


class Fingerprinter:
    """Fingerprints inputs of one model, which are images.

    `span` is the length of the model's range: less than a level of it is flat. Without a layout the shape tells.
    """

    def __init__(
        self, secret: bytes, model: str, shape: tuple[int, ...], span: float, layout: Layout | None = None
    ) -> None:
        self._key = hmac.digest(secret, b"queries\0" + model.encode(), "sha256")
        self._shape = shape
        self._layout = layout or layout_of(shape)
        channels, *size = all_planes(np.empty((1, *shape), np.float32), self._layout).shape[1:]
        self._height, self._width = _shrunk(*size)
        vertical, horizontal = _half_plane(self._height, self._width)
        self._vertical, self._horizontal = _filters(self._height, vertical), _filters(self._width, horizontal)
        self._around = _neighbourhoods(len(vertical), len(horizontal))
        self._flat = _FLAT * span
        rng = np.random.Generator(np.random.Philox(key=int.from_bytes(self._key[:16])))
        self._hyperplanes = rng.standard_normal((channels * len(self._around), BITS), np.float32)

    def prints(self, inputs: Float32Array) -> tuple[UInt64Array, npt.NDArray[np.bool_]]:
        """Fingerprints (n, WORDS) of inputs (n, *shape), and which of them say nothing: flat images all look alike."""
        images = self._thumbnails(all_planes(inputs, self._layout))
        flat = np.ptp(images.reshape(len(images), -1), axis=1) < self._flat
        magnitudes = np.sqrt(np.abs(self._spectrum(images))).reshape(*images.shape[:2], -1)
        around = magnitudes @ self._around
        around += _FLOOR * around.mean(axis=-1, keepdims=True) + np.finfo(np.float32).tiny
        bits = (magnitudes / around - 1).reshape(len(images), -1) @ self._hyperplanes > 0
        return np.packbits(bits, axis=1).view(np.uint64), flat

    def exact(self, item: Float32Array) -> int:
        """Names an input by its exact values: 64 bits."""
        return self._name((item + 0.0).tobytes())  # zeros have signs

    def client(self, name: str) -> int:
        """Names a client: 64 bits."""
        return self._name(b"client\0" + name.encode())

    def key(self, model_fingerprint: str) -> bytes:
        """A key that only those have whose fingerprints can be compared with these.

        Another secret, model, shape or layout, or a numpy that draws other hyperplanes, gives another key.
        """
        drawn = hashlib.sha256(np.packbits(self._hyperplanes > 0).tobytes()).digest()
        same = f"{_FORM}\0{model_fingerprint}\0{self._shape}\0{self._layout}\0{self._flat}\0".encode()
        return hmac.digest(self._key, b"key\0" + same + drawn, "sha256")

    def _name(self, content: bytes) -> int:
        return int.from_bytes(hashlib.blake2b(content, digest_size=8, key=self._key).digest())

    def _thumbnails(self, images: Float32Array) -> Float32Array:
        if images.shape[2:] == (self._height, self._width):
            return images
        size = (self._width, self._height)
        small = [[cv2.resize(plane, size, interpolation=cv2.INTER_AREA) for plane in image] for image in images]
        return np.array(small, np.float32)

    def _spectrum(self, images: Float32Array) -> npt.NDArray[np.complexfloating]:
        """Low frequencies of the windowed difference of two blurs. All of it is linear, so two matrices a blur."""
        fine, coarse = (
            vertical @ images @ horizontal.T
            for vertical, horizontal in zip(self._vertical, self._horizontal, strict=True)
        )
        return fine - coarse


def _shrunk(height: int, width: int) -> tuple[int, int]:
    scale = min(1.0, _LARGEST_PX / max(height, width))
    return max(2, round(height * scale)), max(2, round(width * scale))


def _half_plane(height: int, width: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Vertical and horizontal frequencies: those with a negative horizontal one are mirror images of these."""
    tall, wide = min(_FREQUENCIES, height // 2 + 1), min(_FREQUENCIES, width // 2 + 1)
    return np.arange(1 - tall, tall), np.arange(wide)


def _filters(length: int, frequencies: npt.NDArray[np.int64]) -> list[npt.NDArray[np.complex64]]:
    """Blur, window and Fourier transform along one axis, as a matrix for each of the two blurs."""
    place = np.arange(length)
    fourier = np.exp(-2j * np.pi * np.outer(frequencies, place) / length)
    windowed = fourier * np.sin(np.pi * (place + 0.5) / length) ** 2
    return [(windowed @ _blur(length, width)).astype(np.complex64) for width in (_FINE_PX, _COARSE_PX)]


def _blur(length: int, width: float) -> npt.NDArray[np.float64]:
    """A Gaussian blur along one axis as a matrix; edges are replicated."""
    reach = int(4 * width) + 1
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
    matrix = np.zeros((length, length))
    for offset, weight in zip(range(-reach, reach + 1), kernel / kernel.sum(), strict=True):
        np.add.at(matrix, (np.arange(length), np.clip(np.arange(length) + offset, 0, length - 1)), weight)
    return matrix


def _neighbourhoods(tall: int, wide: int) -> Float32Array:
    """What turns magnitudes, flat, into their means around each frequency."""
    y, x = (axis.ravel() for axis in np.meshgrid(np.arange(tall), np.arange(wide), indexing="ij"))
    squared = np.subtract.outer(y, y) ** 2 + np.subtract.outer(x, x) ** 2
    weights = np.exp(-0.5 * squared / _NEIGHBOURHOOD**2)
    means: Float32Array = (weights / weights.sum(axis=0)).astype(np.float32)
    return means
