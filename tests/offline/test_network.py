"""Detector networks: what they learn from, that they tell attacks they never saw, and drift from attacks."""

from __future__ import annotations

import io
from functools import cache

import numpy as np
import pytest
import torch
from rich.console import Console

from guard.offline import networks
from guard.offline.conditions import EXPECTED, drawn
from guard.offline.material import Attacker, Material
from guard.offline.options import Budget
from guard.offline.perturb import FAMILIES
from guard.offline.progress import Reporter, quiet
from guard.offline.view import View
from guard.screen.backends import networks_of
from guard.values import Float32Array
from tests.support.digits import DigitsData, load_data, trained_network
from tests.support.profiles import digits_backend

CPU = ("CPUExecutionProvider",)


@cache
def material() -> Material:
    """Attacks on digits, by somebody with the model's gradients."""
    backend = digits_backend()
    fit = load_data().calibration[0][:250]
    attacker = Attacker(trained_network(), backend, EXPECTED, exact=True, reporter=quiet())
    return attacker.material(fit, seed=0, attacked=300)


def test_attacks_fool_the_model(digits_data: DigitsData) -> None:
    """Every attack to learn from fools the model, as it was made or laundered; all are images of 8 bits."""
    fit = digits_data.calibration[0][:250]
    known = {tuple(np.rint(x * 255).astype(int).ravel()) for x in fit}
    for sets in material().attacks.values():
        for images, labels in sets:
            now = digits_backend().logits(torch.from_numpy(images)).argmax(dim=1).numpy()
            assert (now != labels).all()
            np.testing.assert_allclose(images * 255, np.rint(images * 255), atol=1e-4)
            assert not any(tuple(np.rint(x * 255).astype(int).ravel()) in known for x in images)
    assert len(material().attacks["iterated"][-1].x) > len(fit)  # as made, and laundered twice


def test_every_family_is_there() -> None:
    """All families of attacks fool a plain model at some strength; what is left out is not made."""
    assert set(material().attacks) == set(FAMILIES)
    left_out = {"patch", "spatial", "confident", "squares"}
    attacker = Attacker(trained_network(), digits_backend(), EXPECTED, exact=True, reporter=quiet(), left_out=left_out)
    assert not set(attacker.attacks(load_data().calibration[0][:40], seed=0, attacked=300)) & left_out


def test_benign_material_is_clean_first() -> None:
    """Clean samples come first, as they are at 8 bits, then the same under the declared conditions."""
    view = View(digits_backend().info)
    made = material()
    np.testing.assert_array_equal(made.benign[: made.clean], view.own(view.view(load_data().calibration[0][:250])))
    assert len(made.benign) == 7 * made.clean


@cache
def trained() -> tuple[tuple[networks.Network, ...], str]:
    """All networks, trained for a moment, and what was said meanwhile."""
    said = io.StringIO()
    budget = Budget(network_steps=150, activation_steps=300, denoiser_steps=100, auxiliary_steps=300)
    reporter = Reporter(Console(file=said, width=200))
    made = networks.train(digits_backend(), material(), 0.25, seed=0, budget=budget, reporter=reporter)
    return made, said.getvalue()


def scores(on: str, x: Float32Array) -> Float32Array:
    """What one of them says of inputs, as log-odds."""
    made, _ = trained()
    files = {each.spec.file: each.content for each in made}
    specs = [each.spec for each in made if each.spec.on == on]
    (backend,) = networks_of(specs, files, digits_backend().info, CPU).values()
    answer = backend.logits(torch.from_numpy(np.ascontiguousarray(x))).numpy()
    backend.close()
    found: Float32Array = answer[:, 1] - answer[:, 0]
    return found


@pytest.mark.parametrize(("on", "least"), [("input", 0.9), ("activations", 0.8)])
def test_ranks_attacks_above_drift(on: str, least: float) -> None:
    """Attacks on digits that no network saw rank above those digits under expected conditions, laundered ones too."""
    images, labels = load_data().test[0][:150], load_data().test[1][:150]
    view, rng, net = View(digits_backend().info), np.random.default_rng(1), trained_network()
    benign = scores(on, view.own(drawn(EXPECTED, view.view(images), rng).images))
    make, _ = FAMILIES["iterated"]
    made = make(net, torch.from_numpy(images), 0.15, (0.0, 1.0), torch.Generator().manual_seed(1)).detach()
    for attacked in (view.view(made.numpy()), drawn(EXPECTED, view.view(made.numpy()), rng).images):
        x = view.own(attacked)
        with torch.no_grad():
            won = net(torch.from_numpy(x)).argmax(dim=1).numpy() != labels
        found = scores(on, x[won])
        assert (found[:, None] > benign[None]).mean() > least


def test_the_auxiliary_model_is_not_fooled_along() -> None:
    """It answers for benign digits as the model does, and sees what was there where small changes fooled it."""
    made, _ = trained()
    images, labels = load_data().test[0][:150], load_data().test[1][:150]
    (file,) = (each for each in made if each.spec.on == "auxiliary")
    (small,) = networks_of([file.spec], {file.spec.file: file.content}, digits_backend().info, CPU).values()
    own = digits_backend().logits(torch.from_numpy(images)).argmax(dim=1)
    assert (small.logits(torch.from_numpy(images)).argmax(dim=1) == own).float().mean() > 0.9
    make, _ = FAMILIES["confident"]
    attacked = make(
        trained_network(), torch.from_numpy(images), 2.0, (0.0, 1.0), torch.Generator().manual_seed(1)
    ).detach()
    fooled = (digits_backend().logits(attacked).argmax(dim=1) != own).numpy()
    assert fooled.mean() > 0.9
    assert (small.logits(attacked).argmax(dim=1).numpy() == labels)[fooled].mean() > 0.8
    small.close()


def test_the_work_is_shown() -> None:
    """Each stage is reported, in order."""
    stages = [line.partition(": ")[0] for line in trained()[1].splitlines()]
    assert stages == [
        "training the detector network",
        "looking into the model",
        "training on the model's activations",
        "training a denoiser",
        "asking the model what a small one is to learn",
        "training the auxiliary model",
    ]
