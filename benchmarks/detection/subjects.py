"""The models and the splits of their data. What one part is used for, no other part is.

The models are trained on the training images alone. Of the test images of MNIST and CIFAR-10, in a fixed order, the
first are the owner's clean samples, from which Guard is calibrated and on which everything about it was chosen; the
rest is only reported on. scikit-learn's handwritten digits are split by the demo, the same way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from torch import nn

from benchmarks import data, models
from guard.demo import digits
from guard.offline.nets import one_thread
from guard.offline.progress import quiet
from guard.values import Float32Array, IntArray

CALIBRATION: Final = slice(0, 6000)
EVALUATION: Final = slice(6000, 10000)


class Name(StrEnum):
    """What can be evaluated."""

    DIGITS = "digits"
    MNIST = "mnist"
    CIFAR10 = "cifar10"


@dataclass(frozen=True, slots=True)
class Split:
    """Images (n, *shape) and labels (n,) for one purpose."""

    images: Float32Array
    labels: IntArray


@dataclass(frozen=True, slots=True)
class Subject:
    """A model, and what Guard is calibrated on and evaluated on, from a folder; `said` is how it was trained."""

    title: str
    said: str
    net: Callable[[], nn.Module]
    splits: Callable[[Path], tuple[Split, Split]]
    shape: tuple[int, ...]


def _of_test_images(load: Callable[[Path, data.Part], data.Images]) -> Callable[[Path], tuple[Split, Split]]:
    def splits(folder: Path) -> tuple[Split, Split]:
        test = load(folder, "test")
        calibration, evaluation = (Split(test.pixels[part], test.labels[part]) for part in (CALIBRATION, EVALUATION))
        return calibration, evaluation

    return splits


def _of_digits(_: Path) -> tuple[Split, Split]:
    found = digits.load_digits(0)
    calibration, evaluation = (Split(part.images, part.labels) for part in (found.calibration, found.held_out))
    return calibration, evaluation


def _digits_net() -> nn.Module:
    with one_thread():
        return digits.train_classifier(digits.load_digits(0).training, seed=0, reporter=quiet())


SUBJECTS: Final = {
    Name.DIGITS: Subject(
        "handwritten digits, a small CNN",
        "The demo's model, trained in seconds.",
        _digits_net,
        _of_digits,
        digits.SHAPE,
    ),
    Name.MNIST: Subject(
        "MNIST, LeNet-5",
        "An ordinary classifier, trained without noise.",
        models.lenet5_clean,
        _of_test_images(data.load_mnist),
        models.LENET5_SHAPE,
    ),
    Name.CIFAR10: Subject(
        "CIFAR-10, ResNet-20",
        "An ordinary classifier, trained under Gaussian noise and then on without. Images are JPEGs as distributed, so "
        "figures are near published ones, and not to be compared digit by digit.",
        models.resnet20_clean,
        _of_test_images(data.load_cifar10),
        models.RESNET20_SHAPE,
    ),
}
