"""Copies: their shapes, bounds, distributions, and that chunks make no difference."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from scipy import stats as distributions

from guard.errors import ConfigError
from guard.profile import spec
from guard.screen.keystream import KEY_BYTES, NONCE_BYTES, Draw, Keystream, seeded, uniforms
from guard.screen.mutations import Wanted, copies
from guard.screen.mutations import make as fill
from guard.values import Float32Array

BOUNDS = (-1.0, 3.0)
IDENTITY = spec.Identity()
GAUSSIAN = spec.Gaussian(sigma=0.5)
UNIFORM = spec.Uniform(width=0.5)
SHIFT_ROTATE = spec.ShiftRotate(max_shift_px=2, max_degrees=20)
CONTRAST = spec.ContrastBrightness()
BIT_DEPTH = spec.BitDepth(bits=3)
MEDIAN = spec.Median(size=3)
NLM = spec.NonLocalMeans(h=8)
RANDOM = (GAUSSIAN, UNIFORM, SHIFT_ROTATE, CONTRAST)
IN_SPACE = (SHIFT_ROTATE, MEDIAN, NLM)
EVERYWHERE = (IDENTITY, GAUSSIAN, UNIFORM, CONTRAST, BIT_DEPTH)
IMAGES = {"HW": (12, 9), "CHW": (3, 12, 9), "HWC": (12, 9, 3), "1HW": (1, 12, 9), "HWC4": (12, 9, 4)}


def kind(mutation: spec.Mutation) -> str:
    """Test id."""
    return mutation.kind


def image(shape: tuple[int, ...], seed: int = 0) -> Float32Array:
    """A random input that fills the bounds, and can't be written to: it may be a view on a message."""
    x = np.random.default_rng(seed).uniform(*BOUNDS, shape).astype(np.float32)
    x.flags.writeable = False
    return x


def make(mutation: spec.Mutation, x: Float32Array, count: int = 5, seed: int = 1) -> Float32Array:
    """Copies with noise of their own."""
    return copies(mutation, x, count, np.random.default_rng(seed), BOUNDS)


def together(mutation: spec.Mutation, wanted: list[Wanted], shape: tuple[int, ...]) -> Float32Array:
    """Copies of many inputs, in memory that held others before."""
    out = np.full((sum(each.copies for each in wanted), *shape), np.nan, dtype=np.float32)
    fill(mutation, wanted, out, BOUNDS)
    return out


def noise(start: int, count: int, nonce: int = 1) -> Draw:
    """The noise of some copies of an input."""
    return Draw(Keystream(bytes(range(KEY_BYTES))), nonce.to_bytes(NONCE_BYTES, "big"), start, count)


@pytest.mark.parametrize("shape", IMAGES.values(), ids=IMAGES)
@pytest.mark.parametrize("mutation", [*EVERYWHERE, *IN_SPACE], ids=kind)
def test_images(mutation: spec.Mutation, shape: tuple[int, ...]) -> None:
    """Each mutation keeps shape, dtype and the input, in each layout; only Gaussian noise leaves the bounds."""
    x = image(shape)
    made = make(mutation, x)
    assert (made.shape, made.dtype) == ((5, *shape), np.float32)
    assert np.array_equal(x, image(shape))
    inside = bool((made >= BOUNDS[0] - 1e-5).all() and (made <= BOUNDS[1] + 1e-5).all())
    assert inside is (mutation is not GAUSSIAN)


@pytest.mark.parametrize("shape", [(7,), (1, 7), (7, 1), (2, 5, 6), (1, 2, 3, 4)], ids=str)
@pytest.mark.parametrize("mutation", EVERYWHERE, ids=kind)
def test_any_shape(mutation: spec.Mutation, shape: tuple[int, ...]) -> None:
    """A mutation of values works on an input of any shape."""
    assert make(mutation, image(shape)).shape == (5, *shape)


@pytest.mark.parametrize("shape", [(7,), (1, 7), (7, 1), (2, 5, 6), (1, 2, 3, 4)], ids=str)
@pytest.mark.parametrize("mutation", IN_SPACE, ids=kind)
def test_space_needs_an_image(mutation: spec.Mutation, shape: tuple[int, ...]) -> None:
    """A mutation in space of what is no image is a configuration error that says what to do."""
    with pytest.raises(ConfigError, match=f"{mutation.kind} needs images.*leave it out"):
        make(mutation, image(shape))


@pytest.mark.parametrize("mutation", [*EVERYWHERE, *IN_SPACE], ids=kind)
@pytest.mark.parametrize("chunks", [(8, 8), (1, 15), (7, 2, 7)], ids=str)
def test_chunks(mutation: spec.Mutation, chunks: tuple[int, ...]) -> None:
    """Copies made in chunks are, bit for bit, those made at once."""
    x, starts = image((5, 7)), np.cumsum([0, *chunks]).tolist()
    parts = [
        together(mutation, [Wanted(x, count, noise(start, count))], (5, 7))
        for start, count in zip(starts, chunks, strict=False)
    ]
    assert np.array_equal(np.concatenate(parts), together(mutation, [Wanted(x, 16, noise(0, 16))], (5, 7)))


@pytest.mark.parametrize("shape", IMAGES.values(), ids=IMAGES)
@pytest.mark.parametrize("mutation", [*EVERYWHERE, *IN_SPACE], ids=kind)
def test_many_inputs(mutation: spec.Mutation, shape: tuple[int, ...]) -> None:
    """Copies of many inputs made at once are, bit for bit, those made for each alone."""
    wanted = [
        Wanted(image(shape, seed), count, noise(start, count, nonce=seed))
        for seed, start, count in ((1, 0, 3), (2, 4, 1), (1, 3, 2), (3, 0, 5))
    ]
    alone = [together(mutation, [each], shape) for each in wanted]
    assert np.array_equal(together(mutation, wanted, shape), np.concatenate(alone))


@pytest.mark.parametrize("mutation", RANDOM, ids=kind)
def test_copies_differ(mutation: spec.Mutation) -> None:
    """Random copies differ from the input, from each other, and between generators."""
    x = image((9, 9))
    made = make(mutation, x, count=4)
    assert len(np.unique(np.concatenate([x[None], made]), axis=0)) == 5
    assert not np.array_equal(made, make(mutation, x, count=4, seed=2))


@pytest.mark.parametrize("mutation", [BIT_DEPTH, MEDIAN, NLM, IDENTITY], ids=kind)
def test_squeezers_draw_nothing(mutation: spec.Mutation) -> None:
    """Squeezed copies are all the same, whatever the generator."""
    x = image((9, 9))
    assert len(np.unique(np.concatenate([make(mutation, x), make(mutation, x, seed=2)]), axis=0)) == 1


def test_gaussian_is_normal() -> None:
    """Gaussian noise is normal with deviation sigma about each value, and independent of it."""
    x = image((40, 50))
    drawn = (make(GAUSSIAN, x, count=10) - x).ravel()
    assert distributions.kstest(drawn, "norm", args=(0, GAUSSIAN.sigma)).pvalue > 1e-3
    assert abs(np.corrcoef(drawn[:-1], drawn[1:])[0, 1]) < 4 / np.sqrt(len(drawn))


def test_uniform_is_uniform() -> None:
    """Uniform noise is uniform within its width, away from the bounds."""
    x = np.ones((40, 50), dtype=np.float32)
    drawn = (make(UNIFORM, x, count=10) - x).ravel()
    assert distributions.kstest(drawn, "uniform", args=(-UNIFORM.width, 2 * UNIFORM.width)).pvalue > 1e-3


@pytest.mark.parametrize("shape", IMAGES.values(), ids=IMAGES)
def test_zero_strength_is_identity(shape: tuple[int, ...]) -> None:
    """A shift and rotation of no strength moves nothing."""
    x = image(shape)
    made = make(spec.ShiftRotate(max_shift_px=0, max_degrees=0), x)
    np.testing.assert_allclose(made, np.broadcast_to(x, (5, *shape)), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("axis", "draw"), [(-1, 1), (-2, 2)], ids=["horizontal", "vertical"])
@pytest.mark.parametrize("size", [(6, 11), (11, 6)], ids=str)
def test_whole_pixel_shift(axis: int, draw: int, size: tuple[int, int]) -> None:
    """A shift by a whole pixel moves every pixel by exactly one, the edge replicated, whatever the aspect ratio."""
    # What the mutation will draw: scaled here to one pixel.
    draws = 2 * uniforms([seeded(np.random.default_rng(1), 1)], 3)[0] - 1
    line = image((size[axis],))
    x = np.broadcast_to(line if axis == -1 else line[:, None], size)
    made = make(spec.ShiftRotate(max_shift_px=1 / abs(float(draws[draw])), max_degrees=0), x, count=1)[0]
    forward = np.append(line[1:], line[-1:])
    backward = np.append(line[:1], line[:-1])
    moved = made[0] if axis == -1 else made[:, 0]
    np.testing.assert_allclose(moved, forward if draws[draw] > 0 else backward, rtol=0, atol=1e-5)


def test_rotation_is_rigid() -> None:
    """A rotation keeps distances on an image that is not square, and stays within its angle."""
    height, width, strength = 81, 41, 30.0
    across, down = np.meshgrid(np.arange(width, dtype=np.float32) - 20, np.arange(height, dtype=np.float32) - 40)
    x = np.stack([across, down, np.zeros_like(down)])  # each pixel holds its coordinates
    made = copies(spec.ShiftRotate(max_shift_px=0, max_degrees=strength), x, 8, np.random.default_rng(1), (-40.0, 40.0))
    angles = []
    for source in made[:, :2]:
        right, below = source[:, 40, 30], source[:, 50, 20]  # from where come the pixels ten off the centre
        assert np.linalg.norm(right) == pytest.approx(10, abs=1e-3)
        np.testing.assert_allclose(below, [-right[1], right[0]], rtol=0, atol=1e-3)
        angles.append(float(np.rad2deg(np.arctan2(right[1], right[0]))))
    assert max(angles) <= strength
    assert min(angles) >= -strength
    assert max(angles) - min(angles) > strength / 2


@pytest.mark.parametrize("bits", [1, 2, 5, 8])
def test_bit_depth_formula(bits: int) -> None:
    """Bit depth is rint(x (2^b - 1)) / (2^b - 1) on the unit range, and the same on other bounds."""
    x, levels = image((6, 7)), 2**bits - 1
    unit = (x - BOUNDS[0]) / 4
    made = make(spec.BitDepth(bits=bits), x, count=1)[0]
    np.testing.assert_allclose(made, np.rint(unit * levels) / levels * 4 + BOUNDS[0], atol=1e-6)
    assert len(np.unique(made)) <= 2**bits


def test_median_is_the_median() -> None:
    """Each pixel becomes the median of its window, channel by channel, in either channel order."""
    x = image((3, 8, 9))
    made = make(spec.Median(size=3), x, count=1)[0]
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    assert np.array_equal(made, np.median(windows, axis=(-2, -1)))
    last = make(spec.Median(size=3), np.ascontiguousarray(np.moveaxis(x, 0, -1)), count=1)[0]
    assert np.array_equal(np.moveaxis(last, -1, 0), made)


def test_non_local_means_is_opencv() -> None:
    """Non-local means is OpenCV's on 8-bit levels over the bounds."""
    x = image((16, 16))
    levels = np.rint((x - BOUNDS[0]) / 4 * 255).astype(np.uint8)
    expected = cv2.fastNlMeansDenoising(levels, h=NLM.h, templateWindowSize=3, searchWindowSize=13)
    made = make(NLM, x, count=1)[0]
    np.testing.assert_allclose(made, expected.astype(np.float32) / 255 * 4 + BOUNDS[0], atol=1e-5)


def test_contrast_and_brightness() -> None:
    """Contrast scales about the mean and brightness moves it, each within its share."""
    x = image((9, 9)) * 0.2 + 1.0  # far from the bounds: nothing is clipped
    made = make(spec.ContrastBrightness(contrast=0.3, brightness=0.1), x, count=200)
    gain = made.std(axis=(1, 2)) / x.std()
    offset = (made.mean(axis=(1, 2)) - x.mean()) / 4
    for draws, least, most in ((gain, 0.7, 1.3), (offset, -0.1, 0.1)):
        share = (draws - least) / (most - least)
        assert 0 <= float(share.min()) < 0.1
        assert 0.9 < float(share.max()) <= 1
