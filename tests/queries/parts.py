"""Images, and a memory to show them to."""

from __future__ import annotations

import numpy as np

from guard.queries.fingerprint import Fingerprinter
from guard.queries.memory import Alike, Query, QueryMemory, Radii
from guard.values import Float32Array

SECRET = bytes(range(32))
SHAPE = (3, 32, 32)


def images(count: int, seed: int = 0, shape: tuple[int, ...] = SHAPE) -> Float32Array:
    """Smooth random images in [0.1, 0.9], each another one."""
    channels, height, width = shape
    rng = np.random.default_rng(seed)
    coarse = rng.standard_normal((count, channels, height // 2 + 1, width // 2 + 1))
    whole = coarse.repeat(2, axis=2).repeat(2, axis=3)[:, :, :height, :width]
    blurred = (whole + np.roll(whole, 1, axis=2) + np.roll(whole, 1, axis=3)) / 3
    low, high = blurred.min(axis=(1, 2, 3), keepdims=True), blurred.max(axis=(1, 2, 3), keepdims=True)
    return (0.1 + 0.8 * (blurred - low) / (high - low)).astype(np.float32)


def fingerprinter(secret: bytes = SECRET, shape: tuple[int, ...] = SHAPE) -> Fingerprinter:
    """Of images in [0, 1]."""
    return Fingerprinter(secret, "model", shape, 1.0)


class Shown:
    """A memory, asked about images."""

    def __init__(
        self,
        *,
        capacity: int = 64,
        keep_s: float = 100.0,
        radii: Radii | None = None,
        shape: tuple[int, ...] = SHAPE,
    ) -> None:
        self.memory = QueryMemory(capacity=capacity, keep_s=keep_s, radii=radii or Radii(76, 60))
        self._fingerprinter = fingerprinter(shape=shape)

    def look(self, image: Float32Array, client: str = "a", now_s: float = 0.0) -> Alike:
        """What came before an image like it."""
        return self.memory.look(self._query(image, client), now_s)

    def learn(self, image: Float32Array, client: str = "a", *, seen_s: float, now_s: float) -> None:
        """Another memory saw it."""
        self.memory.learn(self._query(image, client), seen_s, now_s)

    def _query(self, image: Float32Array, client: str) -> Query:
        prints, _ = self._fingerprinter.prints(image[None])
        return Query(prints[0], self._fingerprinter.exact(image), self._fingerprinter.client(client))


def noisy(image: Float32Array, count: int, *, deviation: float = 0.01, seed: int = 0) -> Float32Array:
    """Near-duplicates of an image, each another one."""
    noise = np.random.default_rng(seed).normal(0, deviation, (count, *image.shape))
    return np.clip(image + noise, 0, 1).astype(np.float32)
