"""Clean samples from a folder or an npz file, as the model takes them."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import structlog

from guard.errors import DataError
from guard.paths import unseen
from guard.values import Float32Array

_IMAGES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"})
_ENCODED = frozenset({".png", ".jpg", ".jpeg"})
_KEYS = ("inputs", "images", "x", "data")
_LEVELS = 255.0
_MATRIX = 2
_TURNS = ((2, 0, 1), (1, 2, 0))
"""Of images' axes: channels from last to first, and from first to last."""
_TOLERATED_DUPLICATES = 0.1
_LARGEST_SCALED = 1.0
# What numpy raises of a file that is cut short, altered, or holds Python objects.
_DAMAGE = (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error)

_log = structlog.get_logger(__name__)


def load_samples(path: Path, bounds: tuple[float, float]) -> Float32Array:
    """Read clean samples, (n, *shape).

    `path` is an npz (an array named inputs, images, x or data, or the only one), an npy, or a folder of images or npy
    files, one sample a file, searched through its subfolders. 8-bit values are scaled from 0..255 to the bounds; other
    types are taken as they are. Many duplicates are warned of.

    Raises:
        DataError: nothing there, unreadable, of different shapes, not finite, or all the same.
    """
    raw = _read(path)
    if not raw.ndim or not raw.size or raw.dtype.kind not in "buif":
        raise DataError(f"{path} holds no numeric samples (found {raw.dtype} of shape {raw.shape})")
    if raw.dtype == np.uint8:
        samples = (raw.astype(np.float32) / _LEVELS * (bounds[1] - bounds[0]) + bounds[0]).clip(*bounds)
    else:
        samples = raw.astype(np.float32)
    checked(path, samples, bounds)
    if raw.dtype.kind == "f" and samples.max() <= _LARGEST_SCALED < bounds[1] / 2:
        _log.warning(
            "no value is above 1, and --bounds reach far beyond: if the model takes values from 0 to 1, leave --bounds "
            "out, or noise and attacks are made a hundred times too strong",
            data=str(path),
            bounds=bounds,
        )
    return samples


def look_for(path: Path) -> None:
    """See whether there is anything of that name.

    Raises:
        DataError: there is not, or that can't be seen.
    """
    if why := unseen(path):
        raise DataError(f"{path} {why}; change permissions, or name another")
    if not path.exists():
        raise DataError(f"{path} does not exist: --data takes a folder of images or npy files, an npz or an npy")


def load_images(data: Path) -> tuple[bytes, ...]:
    """The JPEG and PNG files of a folder and its subfolders, in the order of their names.

    Raises:
        DataError: it is no folder, has none, or has one that can't be read.
    """
    look_for(data)
    files = sorted(file for file in data.rglob("*") if file.suffix.lower() in _ENCODED) if data.is_dir() else []
    if not files:
        raise DataError(f"{data} holds no images: beside --preprocessing, --data takes a folder of JPEG or PNG files")
    return tuple(_bytes_of(file) for file in files)


def _bytes_of(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as exc:
        raise DataError(f"{file} can't be read ({exc.strerror}); change its permissions, or remove it") from exc


def checked(path: Path, samples: Float32Array, bounds: tuple[float, float]) -> Float32Array:
    """The samples. Many duplicates are warned of.

    Raises:
        DataError: they aren't finite, not within the bounds, or all the same.
    """
    if not np.isfinite(samples).all():
        broken = int(np.count_nonzero(~np.isfinite(samples.reshape(len(samples), -1)).all(axis=1)))
        raise DataError(f"{path}: NaN or infinity in {broken} of {len(samples)} samples; leave such samples out")
    if samples.min() < bounds[0] or samples.max() > bounds[1]:
        raise DataError(
            f"{path}: values run from {samples.min():g} to {samples.max():g}, outside the model's bounds "
            f"{bounds[0]:g} to {bounds[1]:g}; give the model's own with --bounds"
        )
    _check_duplicates(path, samples)
    return samples


def _check_duplicates(path: Path, samples: Float32Array) -> None:
    """One image many times is one sample, however many the file holds: what is calibrated on it knows nothing else."""
    distinct = len({hashlib.sha256(sample.tobytes()).digest() for sample in samples})
    duplicates = len(samples) - distinct
    if distinct == 1:
        raise DataError(
            f"{path} holds one sample only, {len(samples)} times: give different ones, as the model's traffic has them"
        )
    if duplicates > _TOLERATED_DUPLICATES * len(samples):
        _log.warning(
            "many clean samples are exact duplicates of others, and the false-positive rate holds for distinct ones: "
            "remove the duplicates or give more samples",
            data=str(path),
            samples=len(samples),
            duplicates=duplicates,
        )


def layouts(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Shapes in which a model may want samples of `shape`: as they are, with a channel axis, channels first or last."""
    if len(shape) == _MATRIX:
        return [shape, (1, *shape), (*shape, 1)]
    return [shape, *(_turned(shape, axes) for axes in _TURNS if len(shape) == len(axes))]


def to_layout(samples: Float32Array, shape: tuple[int, ...]) -> Float32Array:
    """Bring samples into one of their `layouts`."""
    own = samples.shape[1:]
    if own == shape:
        return samples
    for axes in _TURNS:
        if len(own) == len(axes) and _turned(own, axes) == shape:
            return np.ascontiguousarray(samples.transpose(0, *(axis + 1 for axis in axes)))
    return samples.reshape(len(samples), *shape)


def _turned(shape: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(shape[axis] for axis in axes)


def _read(path: Path) -> npt.NDArray[np.generic]:
    look_for(path)
    if path.is_dir():
        return _read_folder(path)
    try:
        if path.suffix == ".npz":
            return _read_npz(path)
        if path.suffix == ".npy":
            return _read_npy(path)
    except _DAMAGE as exc:
        raise DataError(
            f"{path} is damaged, or no file that numpy wrote, or holds Python objects: save it again with numpy.savez "
            "or numpy.save"
        ) from exc
    raise DataError(f"{path} is none of these: --data takes a folder of images or npy files, an npz or an npy")


def _read_npz(path: Path) -> npt.NDArray[np.generic]:
    with np.load(path, allow_pickle=False) as arrays:
        names = list(arrays)
        name = next((key for key in _KEYS if key in names), names[0] if len(names) == 1 else None)
        if name is None:
            raise DataError(f"{path} holds arrays {names}: name the samples one of {', '.join(_KEYS)}")
        return np.asarray(arrays[name])


def _read_npy(path: Path) -> npt.NDArray[np.generic]:
    with path.open("rb") as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _read_folder(path: Path) -> npt.NDArray[np.generic]:
    files = sorted(f for f in path.rglob("*") if f.suffix.lower() in _IMAGES or f.suffix == ".npy")
    if not files:
        raise DataError(f"{path} holds no images ({', '.join(sorted(_IMAGES))}) and no npy files")
    samples = [_read_file(file) for file in files]
    for file, sample in zip(files, samples, strict=True):
        if sample.shape != samples[0].shape:
            raise DataError(
                f"{file} has shape {list(sample.shape)} and {files[0]} has {list(samples[0].shape)}: "
                "resize all samples to what the model takes"
            )
    types = sorted({str(sample.dtype) for sample in samples})
    if len(types) > 1:  # 8-bit values are scaled and others are not
        raise DataError(f"{path} mixes {' and '.join(types)} samples: save all of them in one type")
    return np.stack(samples)


def _read_file(file: Path) -> npt.NDArray[np.generic]:
    if file.suffix == ".npy":
        try:
            return _read_npy(file)
        except _DAMAGE as exc:
            raise DataError(
                f"{file} is damaged, or no file that numpy wrote, or holds Python objects: remove it or save it again"
            ) from exc
    image = cv2.imread(str(file), cv2.IMREAD_ANYCOLOR)
    if image is None:
        raise DataError(f"{file} can't be read as an image: remove it or save it again")
    return image if image.ndim == _MATRIX else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
