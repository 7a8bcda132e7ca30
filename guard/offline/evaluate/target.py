"""A model as attackers see it: 8-bit images, values in [0, 1], channels first, whatever the model's own units are."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from guard.errors import EnvironmentProblem
from guard.model.backend import Backend
from guard.screen.layout import from_channels_first, is_image, to_channels_first
from guard.values import Float32Array, IntArray, ModelInfo

Bytes: TypeAlias = npt.NDArray[np.uint8]
_LEVELS = 255


@dataclass(frozen=True, slots=True)
class View:
    """How inputs of a model are viewed: (n, *shape) of 8 bits, channels first where they are images."""

    info: ModelInfo

    @property
    def image(self) -> bool:
        """Whether inputs are images."""
        return is_image(self.info.shape)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one input as attackers see it."""
        return tuple(self.view(np.zeros((1, *self.info.shape), np.float32)).shape[1:])

    def view(self, samples: Float32Array) -> Bytes:
        """Samples in the model's units, rounded to 8 bits."""
        low, high = self.info.bounds
        x = torch.from_numpy((samples - low) / (high - low))
        x = to_channels_first(x) if self.image else x
        rounded: Bytes = to_bytes(x.numpy())
        return rounded

    def own(self, images: Bytes) -> Float32Array:
        """Back to the model's units and layout."""
        x = torch.from_numpy(from_bytes(images))
        samples: Float32Array = np.ascontiguousarray(self.module_input(x).numpy())
        return samples

    def module_input(self, x: Tensor) -> Tensor:
        """What the model takes, of a batch in [0, 1]; with gradients."""
        low, high = self.info.bounds
        own = from_channels_first(x, self.info.shape) if self.image else x
        return own * (high - low) + low


def to_bytes(x: Float32Array) -> Bytes:
    """Values in [0, 1] as 8 bits."""
    return np.rint(np.clip(x, 0, 1) * _LEVELS).astype(np.uint8)


def from_bytes(images: Bytes) -> Float32Array:
    """8 bits as values in [0, 1]."""
    values: Float32Array = images.astype(np.float32) / np.float32(_LEVELS)
    return values


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
