"""A perturbation that flagged inputs of different content share, on images with the spectrum of natural ones."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from guard.decide.universal import UniversalWatch
from guard.values import Float32Array, SharedPerturbation

COLOUR, LAST, GREY, PLAIN = (3, 32, 32), (32, 32, 3), (1, 40, 40), (41, 39)
STRENGTH = {COLOUR: 8 / 255, LAST: 8 / 255}
GREY_STRENGTH = 0.15


@pytest.fixture
def rng() -> np.random.Generator:
    """What is drawn is the same each time."""
    return np.random.default_rng(0)


def images(number: int, shape: tuple[int, ...], rng: np.random.Generator) -> Float32Array:
    """Images whose strength falls with the frequency, as that of photographs; channels alike but for a little."""
    channels, *size = {COLOUR: COLOUR, LAST: COLOUR, PLAIN: (1, *PLAIN)}.get(shape, shape)
    frequency = np.hypot(np.fft.fftfreq(size[0])[:, None], np.fft.rfftfreq(size[1])[None])
    falling = 1 / np.maximum(frequency, 1 / max(size))
    common = np.fft.irfft2(np.fft.rfft2(rng.normal(size=(number, 1, *size))) * falling, size)
    own = np.fft.irfft2(np.fft.rfft2(rng.normal(size=(number, channels, *size))) * falling, size)
    mixed = common + 0.2 * own
    scaled = np.clip(0.5 + 0.2 * (mixed - mixed.mean()) / mixed.std(), 0, 1).astype(np.float32)
    if shape == LAST:
        return np.moveaxis(scaled, 1, -1)
    return scaled.reshape(number, *shape)


def perturbed(clean: Float32Array, perturbation: Float32Array) -> Float32Array:
    """Images with perturbations added, within the bounds."""
    return np.clip(clean + perturbation, 0, 1).astype(np.float32)


def signs(shape: tuple[int, ...], rng: np.random.Generator) -> Float32Array:
    """A perturbation, or several, as strong as it may be everywhere; without colours it takes more."""
    return (STRENGTH.get(shape[-3:], GREY_STRENGTH) * rng.choice([-1.0, 1.0], shape)).astype(np.float32)


@pytest.fixture
def watches(rng: np.random.Generator) -> Iterator[dict[tuple[int, ...], UniversalWatch]]:
    """A watch for each layout, with eight benign images."""
    made = {shape: UniversalWatch(shape, 1.0, images(8, shape, rng)) for shape in (COLOUR, LAST, GREY, PLAIN)}
    yield made
    for watch in made.values():
        watch.close()


def look(watch: UniversalWatch, inputs: Float32Array) -> tuple[SharedPerturbation, ...]:
    """What the watch's thread finds."""
    return watch.look(inputs).result(timeout=60)


@pytest.mark.parametrize("shape", [COLOUR, LAST, GREY, PLAIN])
def test_one_perturbation(
    watches: dict[tuple[int, ...], UniversalWatch], rng: np.random.Generator, shape: tuple[int, ...]
) -> None:
    """Each image with the perturbation is found to share it with all before it, and with no other."""
    others = look(watches[shape], perturbed(images(10, shape, rng), signs((10, *shape), rng)))
    assert {finding.shared_with for finding in others} == {0}
    found = look(watches[shape], perturbed(images(6, shape, rng), signs(shape, rng)))
    assert [finding.shared_with for finding in found] == [0, 1, 2, 3, 4, 5]
    assert {finding.detector for finding in found} == {"universal"}


def test_own_perturbations(watches: dict[tuple[int, ...], UniversalWatch], rng: np.random.Generator) -> None:
    """Images that were perturbed each in its own way, and images that were not, share nothing."""
    for inputs in (images(60, COLOUR, rng), perturbed(images(60, COLOUR, rng), signs((60, *COLOUR), rng))):
        assert {finding.shared_with for finding in look(watches[COLOUR], inputs)} == {0}


def test_one_image(watches: dict[tuple[int, ...], UniversalWatch], rng: np.random.Generator) -> None:
    """Variations of one image are alike because they are one image: they are not compared with each other.

    They take one place together, so a client that sends many of them doesn't push the others out.
    """
    campaign = signs(COLOUR, rng)
    look(watches[COLOUR], perturbed(images(3, COLOUR, rng), campaign))
    tried = perturbed(np.repeat(images(1, COLOUR, rng), 100, axis=0), 0.3 * signs((100, *COLOUR), rng))
    found = look(watches[COLOUR], tried)
    assert {(finding.shared_with, finding.compared_with) for finding in found} == {(0, 3)}
    (last,) = look(watches[COLOUR], perturbed(images(1, COLOUR, rng), campaign))
    assert (last.shared_with, last.compared_with) == (3, 4)


def test_what_benign_images_share(rng: np.random.Generator) -> None:
    """A pattern that benign images have too, such as a logo in half of them, is no perturbation."""
    logo = np.zeros(COLOUR, np.float32)
    logo[:, :12, :] = 2.0 * rng.choice([-1.0, 1.0], (3, 12, 32))
    for benign, shared in ((perturbed(images(8, COLOUR, rng), logo), {0}), (images(8, COLOUR, rng), {1, 2, 3})):
        benign[::2] = images(4, COLOUR, rng)
        watch = UniversalWatch(COLOUR, 1.0, benign)
        found = look(watch, perturbed(images(4, COLOUR, rng), logo))
        watch.close()
        assert {finding.shared_with for finding in found[1:]} == shared


def test_flat_images(watches: dict[tuple[int, ...], UniversalWatch]) -> None:
    """Images that show nothing have no perturbation to share."""
    flat = np.linspace(0, 1, 20, dtype=np.float32)[:, None, None, None] * np.ones(COLOUR, np.float32)
    assert {finding.shared_with for finding in look(watches[COLOUR], flat)} == {0}


def test_the_last_are_remembered(watches: dict[tuple[int, ...], UniversalWatch], rng: np.random.Generator) -> None:
    """What was flagged long ago is forgotten: memory does not grow."""
    campaign = signs(COLOUR, rng)
    look(watches[COLOUR], perturbed(images(2, COLOUR, rng), campaign))
    look(watches[COLOUR], images(80, COLOUR, rng))
    (found,) = look(watches[COLOUR], perturbed(images(1, COLOUR, rng), campaign))
    assert found.shared_with == 0
    assert found.compared_with <= 64


def test_only_the_middle_of_a_large_image(rng: np.random.Generator) -> None:
    """Of large images their middle is compared, so what is kept for each is bounded."""
    shape = (1, 700, 600)
    watch = UniversalWatch(shape, 1.0, images(1, shape, rng))
    found = look(watch, perturbed(images(2, shape, rng), signs(shape, rng)))
    watch.close()
    assert [finding.shared_with for finding in found] == [0, 1]
    assert watch._residuals.nbytes == 64 * 512 * 512 // 8
