"""Training the detector network: a surrogate imitates the model, perturbations are crafted on it, a net learns them.

Benign drift (noise, brightness, contrast, 8-bit rounding) is among the negatives, or the net would learn that anything
off the data's own grid is an attack.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from guard.model.backend import Backend
from guard.offline.nets import Average, SmallNet, fit, one_thread, to_onnx
from guard.offline.perturb import FAMILIES, Classifier
from guard.offline.progress import Reporter
from guard.profile.spec import ContrastBrightness, Gaussian, Mutation
from guard.screen.mutations import Bounds, copies
from guard.values import Float32Array, ModelInfo

_BATCH = 128
_LEVELS = 255.0
_DRIFTS_PER_SAMPLE = 8
_SURROGATE_COPIES = 6
_NETS = 3


def train_network(
    surrogate: Classifier, info: ModelInfo, samples: Float32Array, *, seed: int, reporter: Reporter, steps: int
) -> bytes:
    """Train a detector network on clean samples (n, *shape) and perturbations of them, and return it as ONNX bytes.

    Its output is (batch, 2): logits of benign and adversarial, the mean of a few networks that differ in their draws,
    since one alone varies a good deal from seed to seed.
    """
    rng = np.random.default_rng(seed)
    torch_rng = torch.Generator().manual_seed(seed)
    x = torch.from_numpy(samples)
    positives = torch.cat(_craft(surrogate, x, info.bounds, torch_rng, reporter))
    negatives = _quantise(torch.cat([x, _drifted(x, info.bounds, rng)]), info.bounds)
    nets = []
    with (
        one_thread(),
        torch.random.fork_rng(devices=[]),
        reporter.stage("training the detector network", _NETS * steps) as advance,
    ):
        torch.manual_seed(seed)
        for _ in range(_NETS):
            net = SmallNet(info.shape, 2, info.bounds)
            fit(net, _balanced(x, negatives, positives, torch_rng), steps=steps, advance=advance)
            nets.append(net)
    return to_onnx(Average(nets).eval(), info.shape)


def train_surrogate(
    backend: Backend, samples: Float32Array, *, seed: int, reporter: Reporter, steps: int
) -> Classifier:
    """Distil a model into a small network from its answers on samples (n, *shape) and on copies of them."""
    bounds = backend.info.bounds
    x = torch.from_numpy(samples)
    inputs = torch.cat([x, _drifted(x, bounds, np.random.default_rng(seed), per_sample=_SURROGATE_COPIES)])
    answers = []
    with reporter.stage("asking the model for a surrogate to imitate", len(inputs)) as advance:
        for part in torch.split(inputs, backend.preferred_batch):
            answers.append(backend.logits(part).softmax(dim=1))
            advance(len(part))
    with one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        surrogate = SmallNet(backend.info.shape, backend.info.classes, bounds)
        with reporter.stage("training the surrogate", steps) as advance:
            batches = _shuffled(inputs, torch.cat(answers), torch.Generator().manual_seed(seed))
            fit(surrogate, batches, steps=steps, advance=advance)
    for parameter in surrogate.parameters():
        parameter.requires_grad = False
    return surrogate


def _craft(
    surrogate: Classifier, x: Tensor, bounds: Bounds, torch_rng: torch.Generator, reporter: Reporter
) -> list[Tensor]:
    """A set of perturbed samples for each family and strength, rounded to 8 bits as real ones would be."""
    cases = [(make, strength) for make, strengths in FAMILIES.values() for strength in strengths]
    sets = []
    with one_thread(), reporter.stage("crafting perturbations to learn from", len(cases)) as advance:
        for make, strength in cases:
            parts = [make(surrogate, part, strength, bounds, torch_rng).detach() for part in torch.split(x, _BATCH)]
            sets.append(_quantise(torch.cat(parts), bounds))
            advance(1)
    return sets


def _drifted(x: Tensor, bounds: Bounds, rng: np.random.Generator, per_sample: int = _DRIFTS_PER_SAMPLE) -> Tensor:
    """Copies of each sample under harmless conditions: sensor noise of several strengths, contrast and brightness."""
    span = bounds[1] - bounds[0]
    kinds: Iterator[Mutation] = itertools.cycle(
        [
            Gaussian(sigma=0.01 * span),
            ContrastBrightness(contrast=0.2, brightness=0.08),
            Gaussian(sigma=0.03 * span),
            ContrastBrightness(contrast=0.3, brightness=0.12),
        ]
    )
    drifted = [copies(next(kinds), sample, 1, rng, bounds) for sample in x.numpy() for _ in range(per_sample)]
    return torch.from_numpy(np.concatenate(drifted)).clamp(*bounds)


def _quantise(x: Tensor, bounds: Bounds) -> Tensor:
    span = bounds[1] - bounds[0]
    return torch.round((x - bounds[0]) / span * _LEVELS) / _LEVELS * span + bounds[0]


def _shuffled(x: Tensor, targets: Tensor, rng: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    while True:
        rows = torch.randint(len(x), (_BATCH,), generator=rng)
        yield x[rows], targets[rows]


def _balanced(
    clean: Tensor, negatives: Tensor, positives: Tensor, rng: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Half of each batch benign (half of that undrifted), half perturbed, families and strengths in equal shares."""
    quarter = _BATCH // 4
    labels = torch.cat([torch.zeros(2 * quarter, dtype=torch.long), torch.ones(2 * quarter, dtype=torch.long)])
    while True:
        picks = [
            clean[torch.randint(len(clean), (quarter,), generator=rng)],
            negatives[torch.randint(len(negatives), (quarter,), generator=rng)],
            positives[torch.randint(len(positives), (2 * quarter,), generator=rng)],
        ]
        yield torch.cat(picks), labels
