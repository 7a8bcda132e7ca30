"""The demo's attacks, made by the Adversarial Robustness Toolbox on a copy of the model."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from guard.demo.digits import BOUNDS, CLASSES, SHAPE, Split
from guard.errors import EnvironmentProblem
from guard.offline.progress import Reporter
from guard.values import Float32Array, IntArray

_LEVELS = 255


@dataclass(frozen=True, slots=True)
class Attack:
    """One row of the table: a name, its setting, and how ART is asked for it."""

    name: str
    setting: str
    make: Callable[[Any, Any], Any]


# Strengths in units of the input's range [0, 1]. C&W and JSMA need the budgets given here to succeed on digits.
ATTACKS = (
    Attack("FGSM", "L-inf 0.1", lambda art, model: art.FastGradientMethod(model, eps=0.1)),
    Attack("FGSM", "L-inf 0.2", lambda art, model: art.FastGradientMethod(model, eps=0.2)),
    Attack("FGSM", "L-inf 0.3", lambda art, model: art.FastGradientMethod(model, eps=0.3)),
    Attack(
        "PGD",
        "L-inf 0.1",
        lambda art, model: art.ProjectedGradientDescent(model, eps=0.1, eps_step=0.02, max_iter=20, verbose=False),
    ),
    Attack(
        "PGD",
        "L-inf 0.2",
        lambda art, model: art.ProjectedGradientDescent(model, eps=0.2, eps_step=0.03, max_iter=20, verbose=False),
    ),
    Attack(
        "PGD",
        "L-inf 0.3",
        lambda art, model: art.ProjectedGradientDescent(model, eps=0.3, eps_step=0.03, max_iter=40, verbose=False),
    ),
    Attack(
        "C&W",
        "L2",
        lambda art, model: art.CarliniL2Method(
            model,
            max_iter=50,
            binary_search_steps=5,
            initial_const=0.1,
            learning_rate=0.05,
            batch_size=200,
            verbose=False,
        ),
    ),
    Attack("DeepFool", "L2", lambda art, model: art.DeepFool(model, batch_size=200, verbose=False)),
    Attack(
        "JSMA",
        "gamma 0.12",
        lambda art, model: art.SaliencyMapMethod(model, theta=1.0, gamma=0.12, batch_size=200, verbose=False),
    ),
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
    evasion, model = _art(net)
    right = _predict(net, digits.images) == digits.labels
    images, labels = digits.images[right][:attempts], digits.labels[right][:attempts]
    crafted = []
    with reporter.stage("attacking it", len(ATTACKS)) as advance:
        for attack in ATTACKS:
            np.random.seed(seed)  # noqa: NPY002 - ART draws from numpy's global generator
            made = attack.make(evasion, model).generate(images)
            made = (np.rint(made * _LEVELS) / _LEVELS).astype(np.float32)
            fooled = _predict(net, made) != labels
            crafted.append(Crafted(attack, made[fooled], labels[fooled], len(images)))
            advance(1)
    return crafted


def _art(net: nn.Module) -> tuple[Any, Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # ART warns of frameworks that it can do without
            from art.attacks import evasion  # noqa: PLC0415 - of the extra `evaluate`, which serving does without
            from art.estimators.classification import PyTorchClassifier  # noqa: PLC0415 - as above
    except ImportError as exc:
        raise EnvironmentProblem(
            "the demo needs the Adversarial Robustness Toolbox: pip install '.[cpu,evaluate]' in a clone of Guard"
        ) from exc
    loss = nn.CrossEntropyLoss()
    model = PyTorchClassifier(
        net, loss=loss, input_shape=SHAPE, nb_classes=CLASSES, clip_values=BOUNDS, device_type="cpu"
    )
    return evasion, model


@torch.no_grad()
def _predict(net: nn.Module, images: Float32Array) -> IntArray:
    labels: IntArray = net(torch.from_numpy(images)).argmax(dim=1).numpy()
    return labels
