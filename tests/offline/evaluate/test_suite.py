"""The table of attacks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from guard.errors import ConfigError
from guard.offline.evaluate.attack import Access
from guard.offline.evaluate.carlini import carlini
from guard.offline.evaluate.rebuilt import margins
from guard.offline.evaluate.suite import QUICK, SUITE, choose, find
from guard.offline.evaluate.target import art, with_gradients
from guard.offline.perturb import FAMILIES
from tests.support import digits


def test_every_family_is_there() -> None:
    """All attacks that Guard is measured against are in the table, each once, made by classes of ART, but for C&W."""
    names = {attack.name for attack in SUITE}
    assert names == {
        *("FGSM", "BIM", "PGD", "PGD L2", "C&W", "DeepFool", "JSMA", "Elastic net", "AutoAttack", "Square", "ZOO"),
        *("Boundary", "HopSkipJump", "SimBA", "Spatial", "Universal", "Patch", "Transfer"),
    }
    titles = [attack.title for attack in SUITE]
    assert len(titles) == len(set(titles))
    parts = [part for attack in SUITE for part in attack.parts or (attack,)]
    assert all(hasattr(art(), part.method) for part in parts if part.name != "C&W")


@pytest.mark.parametrize(
    ("name", "family", "parameter"),
    [
        ("FGSM", "single_step", "eps"),
        ("BIM", "iterated", "eps"),
        ("PGD", "iterated", "eps"),
        ("PGD L2", "iterated_l2", "eps"),
        ("JSMA", "sparse", "gamma"),
        ("Square", "squares", "eps"),
        ("Spatial", "spatial", "max_rotation"),
    ],
)
def test_strengths_go_below_those_trained_on(name: str, family: str, parameter: str) -> None:
    """The weakest setting of each attack is weaker than the weakest of its family that networks are trained on."""
    weakest = min(attack.parameters[parameter] for attack in SUITE if attack.name == name)
    assert weakest < min(FAMILIES[family][1])


def test_stickers_are_as_large_as_they_say() -> None:
    """So many pixels change, give or take a third, and the smallest sticker is smaller than any trained on."""

    class Sticker(art().AdversarialPatchNumpy):  # type: ignore[misc]
        def reset_patch(self, initial_patch_value: Any) -> None:
            super().reset_patch(float(initial_patch_value))

    rows = [attack for attack in SUITE if attack.name == "Patch"]
    areas = [float(attack.setting.partition(" ")[0]) / 100 for attack in rows]
    assert min(areas) < min(FAMILIES["patch"][1])
    for shape in ((1, 28, 28), (3, 32, 32)):
        net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(math.prod(shape), 10))
        estimator = with_gradients(net, shape, 10)
        for row, area in zip(rows, areas, strict=True):
            sticker = Sticker(estimator, **{"verbose": False} | dict(row.parameters))
            sticker.patch = np.ones(sticker.patch_shape, np.float32)
            stuck = sticker.apply_patch(np.zeros((40, *shape), np.float32), row.parameters["scale_max"])
            assert 0.67 * area < float((stuck.max(axis=1) > 0.02).mean()) < 1.33 * area


def test_own_attack_is_minimal_and_confident() -> None:
    """Every digit gets another label, by as many logits as asked, and changes the more, the more that is."""
    net, images = digits.trained_network(), torch.from_numpy(digits.load_data().test[0][:30])
    labels, sizes = net(images).argmax(dim=1), []
    for row in (attack for attack in SUITE if attack.name == "C&W"):
        made = carlini(net, images, **row.parameters)
        assert float(made.min()) >= 0
        assert float(made.max()) <= 1
        lead = margins(net(made), labels)
        won = lead <= -row.parameters["confidence"] + 1e-3
        assert won.float().mean() > 0.9
        sizes.append(float((made - images).flatten(1).norm(dim=1).median()))
    assert sizes == sorted(sizes)
    fool = art().DeepFool(with_gradients(net, (1, 8, 8), 10), verbose=False).generate(images.numpy())
    assert sizes[0] < 1.05 * float(np.median(np.linalg.norm((fool - images.numpy()).reshape(30, -1), axis=1)))


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
