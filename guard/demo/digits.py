"""Real images and a model of them: scikit-learn's handwritten digits and a small CNN."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from guard.errors import EnvironmentProblem
from guard.offline.nets import SmallNet, fit
from guard.offline.progress import Reporter
from guard.profile.spec import ShiftRotate
from guard.screen.mutations import copies
from guard.values import Float32Array, IntArray

SHAPE = (1, 8, 8)
CLASSES = 10
BOUNDS = (0.0, 1.0)
_LEVELS = 16
_TRAINING, _CALIBRATION = 500, 900
_MOVED_COPIES = 10
_BATCH = 64
_STEPS = 1500


@dataclass(frozen=True, slots=True)
class Split:
    """Images (n, 1, 8, 8) in [0, 1] and their labels (n,)."""

    images: Float32Array
    labels: IntArray


@dataclass(frozen=True, slots=True)
class Digits:
    """The 1,797 digits in three parts: to train the model, to calibrate Guard, and to attack."""

    training: Split
    calibration: Split
    held_out: Split


def load_digits(seed: int) -> Digits:
    """Shuffle and split the digits that ship inside scikit-learn.

    Raises:
        EnvironmentProblem: scikit-learn isn't installed.
    """
    try:
        from sklearn import datasets  # noqa: PLC0415 - of the extra `evaluate`, which serving does without
    except ImportError as exc:
        raise EnvironmentProblem(
            "the demo needs scikit-learn: pip install '.[cpu,evaluate]' in a clone of Guard"
        ) from exc
    bunch = datasets.load_digits()
    order = np.random.default_rng(seed).permutation(len(bunch.images))
    images = (bunch.images[order] / _LEVELS).astype(np.float32).reshape(-1, *SHAPE)
    labels = bunch.target[order].astype(np.int64)
    ends = (0, _TRAINING, _TRAINING + _CALIBRATION, len(images))
    parts = [Split(images[a:b], labels[a:b]) for a, b in itertools.pairwise(ends)]
    return Digits(*parts)


def train_classifier(digits: Split, *, seed: int, reporter: Reporter) -> nn.Module:
    """Train a small CNN on the digits and on shifted and rotated copies of them."""
    rng = np.random.default_rng(seed)
    images, labels = torch.from_numpy(digits.images), torch.from_numpy(digits.labels)
    move = ShiftRotate(max_shift_px=0.7, max_degrees=10)
    moved = torch.from_numpy(
        np.concatenate([copies(move, image, _MOVED_COPIES, rng, BOUNDS) for image in digits.images])
    )
    everything = torch.cat([images, moved])
    targets = torch.cat([labels, labels.repeat_interleave(_MOVED_COPIES)])
    with (
        torch.random.fork_rng(devices=[]),
        reporter.stage("training a classifier of handwritten digits", _STEPS) as advance,
    ):
        torch.manual_seed(seed)
        net = SmallNet(SHAPE, CLASSES, BOUNDS)
        fit(net, _batches(everything, targets, seed), steps=_STEPS, advance=advance)
    return net


def _batches(images: Tensor, targets: Tensor, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    rng = torch.Generator().manual_seed(seed)
    while True:
        rows = torch.randint(len(images), (_BATCH,), generator=rng)
        yield images[rows], targets[rows]
