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


def test_fewer_samples_give_narrower_radii() -> None:
    """The radii are for memories of a fixed size: from few samples they are guessed with more room."""
    few, many = radii_of(images(100), BOUNDS), radii_of(images(1500), BOUNDS)
    assert few is not None
    assert many is not None
    assert 0 < few.everyone < few.client
    assert many.everyone < many.client
    assert few.client < 1.2 * many.client


def test_what_gives_no_radii() -> None:
    """Inputs that are no images, and too few of them, give none."""
    assert radii_of(np.zeros((500, 7), np.float32), BOUNDS) is None
    assert radii_of(images(10), BOUNDS) is None
