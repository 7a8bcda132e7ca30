"""Real query attacks on the digits model: flagged before they succeed."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.queries import attacks
from benchmarks.queries.attacks import Budget
from benchmarks.references.blacklight import Blacklight
from guard.queries.calibrate import LIMIT, radii_of
from guard.queries.memory import Radii
from guard.queries.watch import suspicious
from tests.queries.parts import Shown, images, noisy
from tests.support import digits

_IMAGES = 5


@pytest.fixture(scope="module")
def radii() -> Radii:
    """What calibration makes of the digits."""
    found = radii_of(digits.load_data().calibration[0], (0.0, 1.0))
    assert found is not None
    return Radii(found.client, found.everyone)


@pytest.mark.parametrize("attack", attacks.ATTACKS)
def test_attacks_are_flagged(attack: str, radii: Radii) -> None:
    """Of an attack on five images, four or more are flagged no later than the query that would have succeeded."""
    net, x = digits.trained_network(), digits.load_data().test[0]
    stopped = 0
    for index in range(_IMAGES):
        run = attacks.run(attack, net, x[index : index + 1], Budget(linf=0.1, l2=1.0, queries=120), seed=index)
        shown = Shown(radii=radii, shape=(1, 8, 8), capacity=256)
        flags = [suspicious(shown.look(query), LIMIT) for query in run.sent]
        last = len(flags) - 1 if run.success is None else run.success
        stopped += any(flags[: last + 1])
    assert stopped >= _IMAGES - 1


def test_attacks_repeat_with_their_seed() -> None:
    """The same seed sends the same queries; none of them twice, and none past the budget."""
    net, x = digits.trained_network(), digits.load_data().test[0][:1]
    first, again = (attacks.run("Square", net, x, Budget(0.05, 1.0, 40), seed=3) for _ in range(2))
    np.testing.assert_array_equal(first.sent, again.sent)
    assert len(first.sent) <= 40
    assert len(np.unique(first.sent.reshape(len(first.sent), -1), axis=0)) == len(first.sent)


def test_the_reference() -> None:
    """Blacklight flags a query that shares half of its largest hashes with an earlier one, and no unrelated one."""
    store, (one, other) = Blacklight((3, 32, 32)), images(2)
    assert [store.look(one), store.look(other), store.look(one)] == [False, False, True]
    assert store.look(noisy(other, 1, deviation=0.001)[0])
    assert not store.look(np.clip(other + 0.1, 0, 1).astype(np.float32))
