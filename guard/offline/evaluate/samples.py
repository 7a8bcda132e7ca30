"""The images that an evaluation uses, their labels, and whether the profile has seen them before."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from guard.errors import DataError
from guard.offline.data import layouts, load_images, load_samples, to_layout
from guard.offline.images import inputs_of
from guard.offline.progress import quiet
from guard.offline.view import Bytes, View, hashes
from guard.profile.profile import Profile
from guard.values import Float32Array, IntArray

_KEYS = ("labels", "label", "y", "targets")
_DAMAGE = (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True, slots=True)
class Samples:
    """8-bit images (n, *shape) as attackers see them; their true labels (n,), None where they are not known."""

    images: Bytes
    labels: IntArray | None


def read(data: Path, labels: Path | None, profile: Profile, *, most: int, seed: int) -> Samples:
    """Read images and labels, at most so many, drawn by the seed.

    Labels are those of `labels`, or those in the npz of the images. Images that the profile was calibrated on are
    refused.

    Raises:
        DataError: no such data; of another shape than the model's; labels that don't fit; samples of the calibration.
    """
    info = profile.model
    found = _found(data, profile)
    if info.shape not in layouts(found.shape[1:]):
        raise DataError(
            f"{data} holds samples of shape {list(found.shape[1:])}, and the profile's model takes {list(info.shape)}: "
            "give samples that it can take"
        )
    images = View(info).view(to_layout(found, info.shape))
    truth = _labels(labels, data)
    if truth is not None:
        _check_labels(truth, len(images), info.classes, labels or data)
    _refuse_calibration(images, profile, data)
    chosen = np.random.default_rng(seed).permutation(len(images))[:most]
    return Samples(images[chosen], None if truth is None else truth[chosen].astype(np.int64))


def _found(data: Path, profile: Profile) -> Float32Array:
    """Samples as the model takes them; images of a folder are preprocessed as the profile says."""
    info = profile.model
    if profile.preprocessing is None or not data.is_dir():
        return load_samples(data, info.bounds)
    return inputs_of(profile.preprocessing, load_images(data), data, info.bounds, None, quiet())


def _labels(file: Path | None, data: Path) -> npt.NDArray[np.generic] | None:
    """From a file of labels, or from the npz of the images if it has any."""
    if file is None:
        return _from_npz(data) if data.suffix == ".npz" else None
    try:
        if file.suffix == ".npy":
            return np.asarray(np.load(file, allow_pickle=False))
        found = _from_npz(file) if file.suffix == ".npz" else None
    except FileNotFoundError:
        raise DataError(f"--labels {file} does not exist: give an npy, or an npz with an array named labels") from None
    except _DAMAGE as exc:
        raise DataError(f"--labels {file} can't be read as numpy data ({exc}): save it again") from exc
    if found is None:
        raise DataError(f"--labels {file} holds no labels: give an npy, or an npz with an array named labels")
    return found


def _from_npz(file: Path) -> npt.NDArray[np.generic] | None:
    with np.load(file, allow_pickle=False) as arrays:
        name = next((key for key in _KEYS if key in arrays), None)
        return None if name is None else np.asarray(arrays[name])


def _check_labels(labels: npt.NDArray[np.generic], count: int, classes: int, file: Path) -> None:
    if labels.dtype.kind not in "iu" or labels.shape != (count,):
        raise DataError(
            f"{file} holds labels of type {labels.dtype} and shape {list(labels.shape)}: "
            f"give one integer for each of the {count} samples"
        )
    low, high = int(np.min(labels)), int(np.max(labels))
    if low < 0 or high >= classes:
        raise DataError(f"{file} holds labels from {low} to {high}, and the model has classes 0 to {classes - 1}")


def _refuse_calibration(images: Bytes, profile: Profile, data: Path) -> None:
    found = int(np.isin(hashes(images), profile.sample_hashes).sum())
    if found:
        raise DataError(
            f"{data} holds samples that the profile was calibrated on ({found} of {len(images)}): a "
            "false-positive rate measured on them means nothing; evaluate on others"
        )
