"""The watch: when queries are suspicious."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from guard.queries.memory import Alike, QueryMemory, Radii
from guard.queries.watch import QueryWatch, suspicious
from tests.queries.parts import SHAPE, fingerprinter, images, noisy


@pytest.fixture
def watch() -> Iterator[QueryWatch]:
    """A watch with a limit of three."""
    made = QueryWatch(
        fingerprinter(), QueryMemory(capacity=256, keep_s=100, radii=Radii(76, 60)), limit=3, now_s=lambda: 0.0
    )
    yield made
    made.close()


@pytest.mark.parametrize(
    ("alike", "expected"),
    [
        (Alike(client=2, everyone=4, known=False), False),
        (Alike(client=3, everyone=3, known=False), True),
        (Alike(client=3, everyone=3, known=True), True),
        (Alike(client=0, everyone=5, known=False), True),
        (Alike(client=0, everyone=50, known=True), False),
    ],
)
def test_limits(alike: Alike, expected: bool) -> None:  # noqa: FBT001 - a table's column
    """The limit holds for a client; for all clients half more, and never against values that were sent before."""
    assert suspicious(alike, 3) is expected


def test_a_batch_is_a_sequence(watch: QueryWatch) -> None:
    """Items of one batch come one after the other: a batch of variations accuses itself."""
    found = watch.look(noisy(images(1)[0], 6), "a").result()
    assert [each.of_client for each in found] == [0, 1, 2, 3, 4, 5]
    assert [each.suspicious for each in found] == [False] * 3 + [True] * 3
    assert len(watch) == 6


def test_rotation(watch: QueryWatch) -> None:
    """An attacker who is another client each time is found after five queries."""
    variations = noisy(images(1)[0], 8)
    found = [watch.look(image[None], f"client {number}").result()[0] for number, image in enumerate(variations)]
    assert [each.suspicious for each in found] == [False] * 5 + [True] * 3


def test_flat_images(watch: QueryWatch) -> None:
    """Blank images, of whatever brightness, are neither remembered nor suspicious."""
    blank = np.stack([np.full(SHAPE, level, np.float32) for level in np.linspace(0, 1, 20)])
    assert not any(each.suspicious for each in watch.look(blank, "a").result())
    assert len(watch) == 0
