"""Fingerprints: alike for what looks alike, far apart for what does not, and meaningless without the secret."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from guard.layout import is_image
from guard.queries.fingerprint import BITS, WORDS
from guard.values import Float32Array
from tests.queries.parts import SHAPE, fingerprinter, images, noisy


def distances(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Bits in which fingerprints differ, row by row."""
    return np.bitwise_count(one ^ other).sum(axis=1)


def shifted(x: Float32Array) -> Float32Array:
    """One pixel down and to the right; the edge is replicated."""
    return np.pad(x, ((0, 0), (0, 0), (1, 0), (1, 0)), mode="edge")[:, :, :-1, :-1]


@pytest.mark.parametrize(
    ("change", "most"),
    [
        (lambda x: x, 0),
        (lambda x: x + np.float32(0.1), 2),
        (lambda x: x * np.float32(0.8), 2),
        (lambda x: noisy(x, 1, deviation=0.01)[0], 60),
        (shifted, 76),
    ],
    ids=["nothing", "brightness", "contrast", "noise", "a pixel's shift"],
)
def test_what_looks_alike_is_near(change: Callable[[Float32Array], Float32Array], most: int) -> None:
    """Brightness and contrast change next to nothing; noise and a shift by a pixel leave near-duplicates near."""
    before = images(50)
    prints, again = fingerprinter().prints(before)[0], fingerprinter().prints(change(before))[0]
    assert np.quantile(distances(prints, again), 0.9) <= most


def test_different_images_are_far() -> None:
    """Fingerprints of unrelated images differ in about half of their bits."""
    prints = fingerprinter().prints(images(200))[0]
    apart = distances(prints[:100], prints[100:])
    assert apart.min() > BITS / 4
    assert abs(apart.mean() - BITS / 2) < BITS / 10


def test_the_secret_decides() -> None:
    """Another secret gives unrelated fingerprints and names; the same one gives the same in another process."""
    x = images(20)
    one, same, other = (fingerprinter(secret) for secret in (b"1" * 32, b"1" * 32, b"2" * 32))
    np.testing.assert_array_equal(one.prints(x)[0], same.prints(x)[0])
    assert distances(one.prints(x)[0], other.prints(x)[0]).min() > BITS / 3
    assert one.exact(x[0]) == same.exact(x[0]) != other.exact(x[0])
    assert one.client("a") == same.client("a") != other.client("a")


def test_a_batch_is_its_items() -> None:
    """Company changes no fingerprint by more than rounding's last bits."""
    x = images(8)
    together = fingerprinter().prints(x)[0]
    alone = np.concatenate([fingerprinter().prints(item[None])[0] for item in x])
    assert distances(together, alone).max() <= 2


def test_flat_images_say_nothing() -> None:
    """An image without a visible difference in it has no fingerprint to compare."""
    flat = np.full((1, *SHAPE), 0.5, np.float32)
    assert fingerprinter().prints(np.concatenate([flat, images(1)]))[1].tolist() == [True, False]


@pytest.mark.parametrize("shape", [(8, 8), (1, 28, 28), (32, 32, 3), (3, 224, 224), (1, 3, 200)])
def test_shapes(shape: tuple[int, ...]) -> None:
    """Images of any size and layout are fingerprinted, large ones in small."""
    x = np.random.default_rng(0).random((2, *shape), np.float32)
    prints, flat = fingerprinter(shape=shape).prints(x)
    assert prints.shape == (2, WORDS)
    assert not flat.any()


def test_layout_does_not_matter() -> None:
    """The same image as CHW and as HWC has the same fingerprint."""
    x = images(3)
    channels_last = fingerprinter(shape=(32, 32, 3)).prints(np.moveaxis(x, 1, -1))[0]
    assert distances(fingerprinter().prints(x)[0], channels_last).max() <= 2


@pytest.mark.parametrize(("shape", "image"), [((2,), False), ((1, 8), False), ((8, 8), True), ((7, 8, 9), False)])
def test_what_is_an_image(shape: tuple[int, ...], image: bool) -> None:  # noqa: FBT001 - a table's column
    """Vectors, and stacks of other than 1, 3 or 4 channels, are no images."""
    assert is_image(shape) is image
