"""The demo's attacks: rows of `guard evaluate`'s table, on the demo's own copy of the model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from guard.demo.digits import CLASSES, SHAPE, Split
from guard.offline.evaluate.attack import Attack
from guard.offline.evaluate.craft import generate
from guard.offline.evaluate.suite import find
from guard.offline.evaluate.target import with_gradients
from guard.offline.progress import Reporter
from guard.offline.view import from_bytes, to_bytes
from guard.values import Float32Array, IntArray

ATTACKS: tuple[Attack, ...] = tuple(
    find(title)
    for title in (
        "FGSM, L-inf 0.1",
        "FGSM, L-inf 0.2",
        "FGSM, L-inf 0.3",
        "PGD, L-inf 0.1",
        "PGD, L-inf 0.2",
        "PGD, L-inf 0.3",
        "C&W, L2",
        "DeepFool, L2",
        "JSMA, gamma 0.12",
    )
)


@dataclass(frozen=True, slots=True)
class Crafted:
    """What an attack made of `attempts` images that the model got right: those it now gets wrong, in 8 bits."""

    attack: Attack
    images: Float32Array
    labels: IntArray
    attempts: int


def craft(net: nn.Module, digits: Split, *, attempts: int, seed: int, reporter: Reporter) -> list[Crafted]:
    """Run each attack on the first `attempts` digits that the model gets right.

    Raises:
        EnvironmentProblem: the Adversarial Robustness Toolbox isn't installed.
    """
    model = with_gradients(net, SHAPE, CLASSES)  # digits are in [0, 1], which attacks work in
    right = _predict(net, digits.images) == digits.labels
    images, labels = digits.images[right][:attempts], digits.labels[right][:attempts]
    crafted = []
    with reporter.stage("attacking it", len(ATTACKS)) as advance:
        for attack in ATTACKS:
            made = from_bytes(to_bytes(generate(attack, lambda _: model, images, seed=seed)))
            fooled = _predict(net, made) != labels
            crafted.append(Crafted(attack, made[fooled], labels[fooled], len(images)))
            advance(1)
    return crafted


@torch.no_grad()
def _predict(net: nn.Module, images: Float32Array) -> IntArray:
    labels: IntArray = net(torch.from_numpy(images)).argmax(dim=1).numpy()
    return labels
