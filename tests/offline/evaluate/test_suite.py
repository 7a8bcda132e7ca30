"""The table of attacks."""

from __future__ import annotations

import pytest

from guard.errors import ConfigError
from guard.offline.evaluate.attack import Access
from guard.offline.evaluate.suite import QUICK, SUITE, choose, find
from guard.offline.evaluate.target import art
from guard.offline.perturb import FAMILIES


def test_every_family_is_there() -> None:
    """All attacks that Guard is measured against are in the table, each title once, each made by a class of ART."""
    names = {attack.name for attack in SUITE}
    assert names == {
        *("FGSM", "BIM", "PGD", "PGD L2", "C&W", "DeepFool", "JSMA", "Elastic net", "AutoAttack", "Square", "ZOO"),
        *("Boundary", "HopSkipJump", "SimBA", "Spatial", "Universal", "Patch", "Transfer"),
    }
    titles = [attack.title for attack in SUITE]
    assert len(titles) == len(set(titles))
    assert all(hasattr(art(), part.method) for attack in SUITE for part in attack.parts or (attack,))


def test_strengths_go_below_those_trained_on() -> None:
    """The weakest L-inf attack is weaker than the weakest that a detector network is trained on."""
    weakest = min(attack.linf for attack in SUITE if attack.linf is not None)
    assert weakest < min(FAMILIES["iterated"][1])


def test_choice() -> None:
    """All by default, few in a quick run, those named in any case of letters; without images, none that needs them."""
    assert choose((), quick=False, image=True) == SUITE
    assert {attack.title for attack in choose((), quick=True, image=True)} == QUICK
    assert {attack.name for attack in choose(("pgd", "ZOO"), quick=True, image=True)} == {"PGD", "ZOO"}
    assert [attack.title for attack in choose(("c&w, l2",), quick=True, image=True)] == ["C&W, L2"]
    assert not any(attack.images_only for attack in choose((), quick=False, image=False))
    with pytest.raises(ConfigError, match="--attacks Patch: these need images"):
        choose(("Patch",), quick=False, image=False)


def test_rows_can_be_found() -> None:
    """A row is found by its title."""
    assert find("HopSkipJump, L2, 20 steps").access is Access.ANSWERS
