"""Radii from benign inputs: wide enough for attacks, too narrow for benign inputs to meet by chance."""

from __future__ import annotations

import numpy as np

from guard.queries.calibrate import CLIENT_QUERIES, LIMIT, radii_of
from guard.queries.memory import Radii
from tests.queries.parts import Shown, images, noisy
from tests.support import digits

BOUNDS = (0.0, 1.0)


def test_benign_clients_are_let_be() -> None:
    """Clients who send a hundred handwritten digits each, none of them calibrated on, are not suspicious."""
    data = digits.load_data()
    radii = radii_of(data.calibration[0], BOUNDS)
    assert radii is not None
    shown = Shown(capacity=4096, radii=Radii(radii.client, radii.everyone), shape=(1, 8, 8))
    counts = [shown.look(image, f"client {n // 100}") for n, image in enumerate(data.training[0])]
    assert len(counts) < CLIENT_QUERIES
    assert max(alike.client for alike in counts) < LIMIT
    assert max(alike.everyone for alike in counts) < LIMIT + 2


def test_variations_are_near() -> None:
    """Noisy copies of an image are near-duplicates at the radii that other images give."""
    radii = radii_of(images(500), BOUNDS)
    assert radii is not None
    shown = Shown(radii=Radii(radii.client, radii.everyone))
    counts = [shown.look(image) for image in noisy(images(1, seed=1)[0], 6)]
    assert [alike.client for alike in counts] == [alike.everyone for alike in counts] == list(range(6))


def test_radii_are_bounded() -> None:
    """Images of noise have nothing in common, and yet the radii stay those of near-duplicates."""
    radii = radii_of(np.random.default_rng(0).random((300, 3, 32, 32), np.float32), BOUNDS)
    assert radii is not None
    assert (radii.client, radii.everyone) == (80, 56)


def test_radii_are_for_memories_of_a_fixed_size() -> None:
    """A few samples are as far apart as a small memory's queries: the radii are guessed for a full one."""
    x = digits.load_data().training[0]
    few, many = radii_of(x[:100], BOUNDS), radii_of(x, BOUNDS)
    assert few is not None
    assert many is not None
    assert 0 < few.everyone < few.client < 2 * many.client
    assert many.everyone < many.client


def test_what_gives_no_radii() -> None:
    """Inputs that are no images, and too few of them, give none."""
    assert radii_of(np.zeros((500, 7), np.float32), BOUNDS) is None
    assert radii_of(images(10), BOUNDS) is None
