"""Real images to measure on, from a folder that the person names: MNIST and CIFAR-10.

The folder holds `mnist.npz` (train_images, test_images: uint8 (n, 28, 28); train_labels, test_labels) and
`cifar10-jpeg.zip` (train/<class>/<nnnn>.jpg, test/<class>/<nnnn>.jpg).
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import cv2
import numpy as np

from guard.errors import DataError
from guard.values import Float32Array, IntArray

Part: TypeAlias = Literal["train", "test"]
MNIST = "mnist.npz"
CIFAR10 = "cifar10-jpeg.zip"
_LEVELS = 255.0
_ORDER = 0


@dataclass(frozen=True, slots=True)
class Images:
    """Images (n, channels, height, width), float32 in [0, 1], and their classes (n,)."""

    pixels: Float32Array
    labels: IntArray


def load_mnist(folder: Path, part: Part, count: int | None = None) -> Images:
    """Read MNIST's images as (n, 1, 28, 28), all or the first `count`.

    Raises:
        DataError: the file isn't there, or is no such archive.
    """
    path = _existing(folder, MNIST)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            images, labels = arrays[f"{part}_images"][:count], arrays[f"{part}_labels"][:count]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as exc:
        raise DataError(f"{path} can't be read as MNIST ({exc}): it needs {part}_images and {part}_labels") from exc
    return Images(images[:, None].astype(np.float32) / _LEVELS, labels.astype(np.int64))


def load_cifar10(folder: Path, part: Part, count: int | None = None) -> Images:
    """Read CIFAR-10's images as (n, 3, 32, 32), all or the first `count`, in an order that is shuffled but fixed.

    Raises:
        DataError: the file isn't there, or is no such archive.
    """
    path = _existing(folder, CIFAR10)
    try:
        with zipfile.ZipFile(path) as archive:
            names = sorted(name for name in archive.namelist() if name.startswith(f"{part}/") and name.endswith(".jpg"))
            classes = sorted({name.split("/")[1] for name in names})
            # The archive lists one class after the other, and the first `count` should hold all of them.
            chosen = [names[i] for i in np.random.default_rng(_ORDER).permutation(len(names))[:count]]
            pixels = [_decode(path, name, archive.read(name)) for name in chosen]
    except (OSError, zipfile.BadZipFile) as exc:
        raise DataError(f"{path} can't be read as a zip archive ({exc}): copy it again") from exc
    if not pixels:
        raise DataError(f"{path} holds no {part}/<class>/<nnnn>.jpg: copy it again")
    stack = np.stack(pixels).transpose(0, 3, 1, 2).astype(np.float32) / _LEVELS
    return Images(np.ascontiguousarray(stack), np.array([classes.index(name.split("/")[1]) for name in chosen]))


def _decode(path: Path, name: str, content: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise DataError(f"{path}: {name} is no image: copy the archive again")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB).astype(np.uint8)


def _existing(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.is_file():
        raise DataError(f"{path} does not exist: name the folder that holds {MNIST} and {CIFAR10} with --data")
    return path
