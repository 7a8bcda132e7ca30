"""Inputs as people, attackers and pipelines see them: 8-bit images, channels first, whatever the model's units are."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from guard.datatypes import held
from guard.layout import from_channels_first, is_image, to_channels_first
from guard.values import Float32Array, ModelInfo, UInt64Array

Bytes: TypeAlias = npt.NDArray[np.uint8]
_LEVELS = 255


@dataclass(frozen=True, slots=True)
class View:
    """How inputs of a model are viewed: (n, *shape) of 8 bits, channels first where they are images."""

    info: ModelInfo

    @property
    def image(self) -> bool:
        """Whether inputs are images."""
        return is_image(self.info.shape, self.info.layout)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one input as attackers see it."""
        return tuple(self.view(np.zeros((1, *self.info.shape), np.float32)).shape[1:])

    def view(self, samples: Float32Array) -> Bytes:
        """Samples in the model's units, rounded to 8 bits."""
        low, high = self.info.bounds
        x = torch.from_numpy((samples - low) / (high - low))
        x = to_channels_first(x, self.info.layout) if self.image else x
        rounded: Bytes = to_bytes(x.numpy())
        return rounded

    def own(self, images: Bytes) -> Float32Array:
        """Back to the model's units and layout, as its data type holds them."""
        x = torch.from_numpy(from_bytes(images))
        samples: Float32Array = np.ascontiguousarray(self.module_input(x).numpy())
        return held(self.info.datatype, samples)

    def module_input(self, x: Tensor) -> Tensor:
        """What the model takes, of a batch in [0, 1]; with gradients."""
        low, high = self.info.bounds
        own = from_channels_first(x, self.info.shape, self.info.layout) if self.image else x
        return own * (high - low) + low


def to_bytes(x: Float32Array) -> Bytes:
    """Values in [0, 1] as 8 bits."""
    return np.rint(np.clip(x, 0, 1) * _LEVELS).astype(np.uint8)


def from_bytes(images: Bytes) -> Float32Array:
    """8 bits as values in [0, 1]."""
    values: Float32Array = images.astype(np.float32) / np.float32(_LEVELS)
    return values


def hashes(images: Bytes) -> UInt64Array:
    """The first 64 bits of the SHA-256 of each image (n, *shape): enough to recognise them, (n,)."""
    digests = [hashlib.sha256(image.tobytes()).digest()[:8] for image in images]
    return np.frombuffer(b"".join(digests), "<u8").astype(np.uint64)
