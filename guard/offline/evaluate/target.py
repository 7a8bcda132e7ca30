"""A model as attackers see it, and the toolbox that attacks it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from guard.errors import EnvironmentProblem
from guard.model.backend import Backend
from guard.offline.view import Bytes, View, from_bytes
from guard.values import Float32Array, IntArray


class Viewed(nn.Module):
    """A module of a model, that takes what attackers make: (n, *shape) in [0, 1]."""

    def __init__(self, module: nn.Module, view: View) -> None:
        super().__init__()
        self._module, self._view = module, view

    def forward(self, x: Tensor) -> Tensor:
        """To logits."""
        logits: Tensor = self._module(self._view.module_input(x))
        return logits


class Answers:
    """What the model answers to attackers' inputs, with a count of them."""

    def __init__(self, backend: Backend) -> None:
        self.view = View(backend.info)
        self.asked = 0
        self._backend = backend

    def logits(self, x: Float32Array) -> Float32Array:
        """Of inputs (n, *shape) in [0, 1]."""
        self.asked += len(x)
        own = self.view.module_input(torch.from_numpy(np.ascontiguousarray(x, np.float32))).contiguous()
        answers = [self._backend.logits(part) for part in torch.split(own, self._backend.preferred_batch)]
        logits: Float32Array = torch.cat(answers).numpy()
        return logits

    def labels(self, images: Bytes) -> IntArray:
        """Of 8-bit images."""
        if not len(images):
            return np.zeros(0, np.int64)
        labels: IntArray = self.logits(from_bytes(images)).argmax(axis=1).astype(np.int64)
        return labels


def art() -> Any:
    """The toolbox's attacks.

    Raises:
        EnvironmentProblem: the Adversarial Robustness Toolbox isn't installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # ART warns of frameworks that it can do without
            from art.attacks import evasion  # noqa: PLC0415 - of the extra `evaluate`, which serving does without
    except ImportError as exc:
        raise EnvironmentProblem(
            "attacks need the Adversarial Robustness Toolbox: pip install '.[cpu,evaluate]' in a clone of Guard"
        ) from exc
    return evasion


def with_gradients(module: nn.Module, shape: tuple[int, ...], classes: int) -> Any:
    """An estimator of ART for a module that takes inputs in [0, 1] and gives logits."""
    art()  # says so where it isn't installed
    from art.estimators.classification import PyTorchClassifier  # noqa: PLC0415 - as in art

    return PyTorchClassifier(
        module,
        loss=nn.CrossEntropyLoss(),
        input_shape=shape,
        nb_classes=classes,
        clip_values=(0.0, 1.0),
        device_type="cpu",
    )


def with_answers(
    answer: Callable[[Float32Array], Float32Array], shape: tuple[int, ...], classes: int, *, channels_first: bool = True
) -> Any:
    """An estimator of ART for a model that only answers."""
    art()  # as in with_gradients
    from art.estimators.classification import BlackBoxClassifierNeuralNetwork  # noqa: PLC0415 - as in art

    return BlackBoxClassifierNeuralNetwork(
        answer, input_shape=shape, nb_classes=classes, channels_first=channels_first, clip_values=(0.0, 1.0)
    )
