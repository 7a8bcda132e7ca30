"""What detector networks learn from: benign inputs as a deployment sees them, and attacks that fool the model.

Every attack is in it as it was made and laundered, under the conditions that benign inputs are in it under: or a
network would learn that a JPEG is an attack, or that an attack is what a JPEG takes away.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from guard.layout import from_channels_first, of_model, to_channels_first
from guard.model.backend import Backend
from guard.offline.conditions import drawn
from guard.offline.nets import one_thread
from guard.offline.perturb import FAMILIES, IMAGES_ONLY, Perturbation
from guard.offline.progress import Reporter
from guard.offline.view import Bytes, View
from guard.profile.spec import Condition
from guard.values import Float32Array, IntArray, ModelInfo

_BATCH = 128
_TIMES_DRIFTED = 6
_LAUNDERED = 2
_BEYOND = 1.5
_LEAST_FOOLED = 8
_MOST_VALUES = 150_000_000


@dataclass(frozen=True, slots=True)
class Material:
    """Inputs (n, *shape) in the model's units. `benign` starts with the `clean` ones; `attacks` is by family.

    `exact` says that attacks were made with the model's own gradients, so that all of them fool it.
    """

    benign: Float32Array
    clean: int
    attacks: Mapping[str, Sequence[Float32Array]]
    exact: bool

    @property
    def positives(self) -> list[Float32Array]:
        """A set for each family and strength."""
        return [each for sets in self.attacks.values() for each in sets]


def collect(
    white_box: nn.Module,
    backend: Backend,
    samples: Float32Array,
    conditions: Sequence[Condition],
    *,
    exact: bool,
    seed: int,
    reporter: Reporter,
    left_out: Collection[str] = (),
    attacked: int,
) -> Material:
    """Craft attacks on clean samples (n, *shape), families and strengths, and keep those that fool the model.

    Where gradients are those of a surrogate (not `exact`), few do, and all are kept. `left_out` families are not made.
    Each attacks so many samples; of large inputs fewer, so that all fits into a gigabyte or so.
    """
    view = View(backend.info)
    rng = np.random.default_rng(seed)
    attacker = _Attacker(white_box, backend.info, torch.Generator().manual_seed(seed))
    most = _MOST_VALUES // math.prod(backend.info.shape)
    images = view.view(samples[: max(most // (1 + _TIMES_DRIFTED), _LEAST_FOOLED)])
    times = _TIMES_DRIFTED if conditions else 0
    benign = [images, *(drawn(conditions, images, rng, beyond=_BEYOND) for _ in range(times))]
    attacks: dict[str, list[Float32Array]] = {}
    cases = list(_cases(left_out, image=view.image))
    attacked = min(attacked, max(most // len(cases) // (1 + _LAUNDERED), _LEAST_FOOLED))
    with one_thread(), reporter.stage("crafting attacks to learn from", len(cases)) as advance:
        for family, make, strength in cases:
            rows = rng.permutation(len(images))[:attacked]
            made = view.view(attacker.craft(make, strength, view.own(images[rows])))
            labels = _labels(backend, view.own(images[rows]))
            kept = _fooling(made, labels, backend, view) if exact else (made, labels)
            advance(1)
            if len(kept[0]) < min(_LEAST_FOOLED, attacked // 4):
                continue
            sets = [kept[0]]
            for _ in range(_LAUNDERED if conditions else 0):
                laundered = drawn(conditions, kept[0], rng)
                sets.append(_fooling(laundered, kept[1], backend, view)[0] if exact else laundered)
            attacks.setdefault(family, []).append(view.own(np.concatenate(sets)))
    return Material(view.own(np.concatenate(benign)), len(images), attacks, exact)


def _cases(left_out: Collection[str], *, image: bool) -> Iterator[tuple[str, Perturbation, float]]:
    for family, (make, strengths) in FAMILIES.items():
        if family not in left_out and (image or family not in IMAGES_ONLY):
            for strength in strengths:
                yield family, make, strength


@dataclass(frozen=True, slots=True)
class _Attacker:
    """Somebody with the model's gradients."""

    model: nn.Module
    info: ModelInfo
    rng: torch.Generator

    def craft(self, make: Perturbation, strength: float, x: Float32Array) -> Float32Array:
        layout = of_model(self.info)
        parts = torch.split(to_channels_first(torch.from_numpy(x), layout), _BATCH)
        made = [make(self._classify, part, strength, self.info.bounds, self.rng).detach() for part in parts]
        crafted: Float32Array = from_channels_first(torch.cat(made), self.info.shape, layout).numpy()
        return np.ascontiguousarray(crafted)

    def _classify(self, x: Tensor) -> Tensor:
        """Of inputs with their channels first, as perturbations have them."""
        logits: Tensor = self.model(from_channels_first(x, self.info.shape, of_model(self.info)))
        return logits


def _fooling(made: Bytes, labels: IntArray, backend: Backend, view: View) -> tuple[Bytes, IntArray]:
    won = _labels(backend, view.own(made)) != labels
    return made[won], labels[won]


def _labels(backend: Backend, x: Float32Array) -> IntArray:
    parts = torch.split(torch.from_numpy(x), backend.preferred_batch)
    labels: IntArray = torch.cat([backend.logits(part).argmax(dim=1) for part in parts]).numpy()
    return labels
