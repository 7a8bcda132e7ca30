"""Clean samples from whatever a person has them in."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from structlog.testing import capture_logs

from guard.errors import DataError
from guard.offline.data import layouts, load_samples, to_layout

RNG = np.random.default_rng(0)
FLOATS = RNG.random((6, 4, 5), np.float32)
GREY = RNG.integers(0, 256, (4, 8, 8), np.uint8)
COLOUR = RNG.integers(0, 256, (4, 8, 8, 3), np.uint8)
UNIT = (0.0, 1.0)


@pytest.mark.parametrize("name", ["inputs", "images", "x", "data", "anything"])
def test_npz(tmp_path: Path, name: str) -> None:
    """An npz's samples are found by their name, or by being alone; they come as float32, as they are."""
    others = {} if name == "anything" else {"labels": np.arange(6)}
    np.savez(tmp_path / "samples.npz", **{name: FLOATS.astype(np.float64)}, **others)
    samples = load_samples(tmp_path / "samples.npz", UNIT)
    assert samples.dtype == np.float32
    np.testing.assert_array_equal(samples, FLOATS)


def test_npy(tmp_path: Path) -> None:
    """An npy holds all samples, of any shape; integers other than 8-bit ones are taken as they are."""
    np.save(tmp_path / "samples.npy", np.array([[3, 1000], [2, 999]], np.int32))
    np.testing.assert_array_equal(load_samples(tmp_path / "samples.npy", (0, 1000)), [[3, 1000], [2, 999]])


@pytest.mark.parametrize("bounds", [UNIT, (0.0, 255.0), (-1.0, 1.0), (-2.1179, 2.64), (0.1, 0.7)])
def test_8_bit_values_are_scaled(tmp_path: Path, bounds: tuple[float, float]) -> None:
    """8-bit values run from one bound to the other, and rounding carries none of them over it."""
    np.save(tmp_path / "levels.npy", np.arange(256, dtype=np.uint8).reshape(2, 128))
    samples = load_samples(tmp_path / "levels.npy", bounds).reshape(-1)
    np.testing.assert_allclose(samples, np.linspace(*bounds, 256), rtol=1e-5, atol=1e-6)
    assert samples.min() >= np.float32(bounds[0])
    assert samples.max() <= np.float32(bounds[1])


@pytest.mark.parametrize("suffix", [".png", ".PNG", ".bmp", ".tiff"])
@pytest.mark.parametrize("images", [GREY, COLOUR], ids=["grey", "colour"])
def test_folder_of_images(tmp_path: Path, images: np.ndarray, suffix: str) -> None:
    """A folder of lossless images gives their very pixels, in the order of names, subfolders and all, colour as RGB."""
    for index, image in enumerate(images):
        folder = tmp_path / f"class{index // 2}"
        folder.mkdir(exist_ok=True)
        stored = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        assert cv2.imwrite(str(folder / f"{index}{suffix}"), stored)
    (tmp_path / "README.txt").write_text("not a sample")
    np.testing.assert_allclose(load_samples(tmp_path, UNIT), images / 255, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_folder_of_jpegs(tmp_path: Path, channels: int) -> None:
    """JPEGs are read as grey or as RGB, near what was stored."""
    ramp = np.linspace(0, 255, 16, dtype=np.uint8)[None].repeat(16, axis=0)
    image = ramp if channels == 1 else np.stack([ramp, ramp.T, 255 - ramp], axis=-1)
    stored = image if channels == 1 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    cv2.imwrite(str(tmp_path / "a.jpg"), stored, [cv2.IMWRITE_JPEG_QUALITY, 100])
    cv2.imwrite(str(tmp_path / "b.jpeg"), stored[:, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 100])
    samples = load_samples(tmp_path, UNIT)
    assert samples.shape == (2, *image.shape)
    assert np.abs(samples[0] - image / 255).mean() < 0.03


def test_folder_of_npy(tmp_path: Path) -> None:
    """A folder of npy files gives one sample a file."""
    for index, sample in enumerate(FLOATS):
        np.save(tmp_path / f"{index}.npy", sample)
    np.testing.assert_array_equal(load_samples(tmp_path, UNIT), FLOATS)


def pack(path: Path, *arrays: np.ndarray, **named: np.ndarray) -> None:
    """Save one array, or a file for each, or an archive of named ones."""
    if named:
        np.savez(path, **named)
    elif path.suffix == ".npy":
        np.save(path, arrays[0], allow_pickle=True)
    else:
        path.mkdir()
        for index, array in enumerate(arrays):
            np.save(path / f"{index}.npy", array)


def npy_bytes(array: np.ndarray) -> bytes:
    """An array as a file."""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def spoilt_npz(path: Path) -> None:
    """An archive whose structure is whole and whose data is not."""
    np.savez_compressed(path, x=FLOATS)
    content = bytearray(path.read_bytes())
    content[60:68] = b"\xff" * 8
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "make", "says"),
    [
        ("absent", str, "absent does not exist: --data takes a folder of images or npy files, an npz or an npy"),
        ("absent.npz", str, "does not exist: --data takes"),
        ("absent.npy", str, "does not exist: --data takes"),
        ("a.txt", lambda p: p.write_text("1,2"), "a.txt is none of these: --data takes"),
        ("a.npy", lambda p: p.write_bytes(b""), "is damaged, or no file that numpy wrote"),
        ("a.npy", lambda p: p.write_bytes(b"no"), "is damaged, or no file that numpy wrote"),
        ("a.npy", lambda p: p.write_bytes(npy_bytes(FLOATS)[:-9]), "is damaged, or no file that numpy wrote"),
        ("a.npy", lambda p: pack(p, np.array([{}, {}])), "is damaged, .* or holds Python objects"),
        ("a.npz", lambda p: p.write_bytes(b""), "is damaged, or no file that numpy wrote"),
        ("a.npz", lambda p: p.write_bytes(b"PK"), "is damaged, or no file that numpy wrote"),
        ("a.npz", lambda p: p.write_bytes(npy_bytes(FLOATS)), "is damaged, or no file that numpy wrote"),
        ("a.npz", spoilt_npz, "is damaged, or no file that numpy wrote"),
        ("a.npz", lambda p: pack(p, y=FLOATS, z=FLOATS), r"holds arrays \['y', 'z'\]: name the samples one of inputs"),
        ("a.npy", lambda p: pack(p, np.array(["a", "b"])), "holds no numeric samples"),
        ("a.npy", lambda p: pack(p, np.array([1j])), r"holds no numeric samples \(found complex128"),
        ("a.npy", lambda p: pack(p, np.float32(3)), r"holds no numeric samples \(found float32 of shape \(\)\)"),
        ("a.npy", lambda p: pack(p, np.zeros((0, 4))), r"holds no numeric samples \(found float64 of shape \(0, 4\)"),
        ("a.npy", lambda p: pack(p, np.zeros((4, 0))), "holds no numeric samples"),
        ("a.npy", lambda p: pack(p, np.array([[0, 1], [np.nan, np.inf]])), "NaN or infinity in 1 of 2 samples"),
        ("a.npy", lambda p: pack(p, np.array([[-0.5, 1.5]])), "run from -0.5 to 1.5, outside .* 0 to 1; .*--bounds"),
        ("a.npy", lambda p: pack(p, FLOATS[[0] * 300]), "holds one sample only, 300 times: give different ones"),
        ("a.npy", lambda p: pack(p, FLOATS[:1]), "holds one sample only, 1 times: give different ones"),
        ("folder", lambda p: pack(p, GREY[0], GREY[0]), "holds one sample only, 2 times"),
        ("folder", lambda p: p.mkdir(), "holds no images .* and no npy files"),
        ("folder", lambda p: pack(p, FLOATS[0], FLOATS[0].T), r"1.npy has shape \[5, 4\] and .*0.npy has \[4, 5\]"),
        ("folder", lambda p: pack(p, GREY[0], GREY[1] / 255), "mixes float64 and uint8 samples: save all .*one type"),
        ("folder", lambda p: (p.mkdir(), (p / "a.npy").write_bytes(b"no")), "a.npy is damaged, or no file"),
        ("folder", lambda p: (p.mkdir(), (p / "a.png").write_bytes(b"no")), "a.png can't be read as an image"),
    ],
)
def test_unusable_data(tmp_path: Path, name: str, make: Callable[[Path], object], says: str) -> None:
    """Data that can't be used is a DataError that names the file and what to do."""
    make(tmp_path / name)
    with pytest.raises(DataError, match=f"(?s){says}") as caught:
        load_samples(tmp_path / name, UNIT)
    assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize(("duplicates", "warned"), [(0, False), (4, False), (5, True), (37, True)])
def test_duplicates(tmp_path: Path, duplicates: int, warned: bool) -> None:  # noqa: FBT001 - a table's column
    """More than one sample in ten that repeats another is warned of with the count; the samples stay as they are."""
    stored = RNG.random((40, 4, 5), np.float32)
    stored[1 : 1 + duplicates] = stored[0]
    stored = stored[RNG.permutation(40)]
    np.save(tmp_path / "samples.npy", stored)
    with capture_logs() as logs:
        np.testing.assert_array_equal(load_samples(tmp_path / "samples.npy", UNIT), stored)
    counts = [(log["log_level"], log["duplicates"], log["samples"]) for log in logs]
    assert counts == [("warning", duplicates, 40)] * warned
    assert all(log["data"] == str(tmp_path / "samples.npy") for log in logs)


@pytest.mark.parametrize(
    ("own", "wanted"),
    [
        ((8, 8), [(8, 8), (1, 8, 8), (8, 8, 1)]),
        ((6, 8, 3), [(6, 8, 3), (3, 6, 8), (8, 3, 6)]),
        ((3, 6, 8), [(3, 6, 8), (8, 3, 6), (6, 8, 3)]),
        ((4,), [(4,)]),
    ],
)
def test_layouts(own: tuple[int, ...], wanted: list[tuple[int, ...]]) -> None:
    """Samples can be brought into every layout that is offered for them, each pixel where that layout has it."""
    samples = RNG.random((3, *own), np.float32)
    assert layouts(own) == wanted
    for shape in wanted:
        moved = to_layout(samples, shape)
        assert moved.shape == (3, *shape)
        assert moved.flags.c_contiguous
        turned = {(own[2], *own[:2]): (0, 2, 3, 1), (*own[1:], own[0]): (0, 3, 1, 2)} if len(own) == 3 else {}
        back = moved.transpose(turned[shape]) if shape in turned else moved.reshape(samples.shape)
        np.testing.assert_array_equal(back, samples)


@pytest.mark.parametrize(
    ("largest", "bounds", "warned"),
    [(1.0, (0.0, 255.0), True), (200.0, (0.0, 255.0), False), (1.0, (0.0, 1.0), False), (1.0, (-1.0, 1.0), False)],
)
def test_bounds_of_another_scale(
    tmp_path: Path,
    largest: float,
    bounds: tuple[float, float],
    warned: bool,  # noqa: FBT001 - a table's column
) -> None:
    """Values from 0 to 1 under bounds of 0 to 255 are most likely a mistake, and it is said."""
    stored = np.random.default_rng(0).random((20, 3, 4, 4), np.float32) * largest
    np.save(tmp_path / "x.npy", stored)
    with capture_logs() as logs:
        load_samples(tmp_path / "x.npy", bounds)
    assert [log["log_level"] for log in logs] == ["warning"] * warned
