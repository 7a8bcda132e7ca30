"""What detector networks learn from: benign inputs as a deployment sees them, and attacks that fool the model.

Every attack is in it as it was made and laundered, under the conditions that benign inputs are in it under, and as
severe: or a network would learn that a JPEG is an attack, that an attack is what a JPEG takes away, or how severe a
change is.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

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
from guard.values import Float32Array, IntArray

_BATCH = 128
_TIMES_DRIFTED = 6
_LAUNDERED = 2
_LEAST_FOOLED = 8
_MOST_VALUES = 150_000_000


class Attacked(NamedTuple):
    """Attacks (n, *shape) in the model's units, and the label that the model gave to what each was made of, (n,)."""

    x: Float32Array
    labels: IntArray


@dataclass(frozen=True, slots=True)
class Material:
    """Inputs (n, *shape) in the model's units. `benign` starts with the `clean` ones; `attacks` is by family.

    `exact` says that attacks were made with the model's own gradients, so that all of them fool it.
    """

    benign: Float32Array
    clean: int
    attacks: Mapping[str, Sequence[Attacked]]
    exact: bool

    @property
    def positives(self) -> list[Float32Array]:
        """A set for each family and strength."""
        return [each.x for each in self.attacked]

    @property
    def attacked(self) -> list[Attacked]:
        """The same, with the labels of what they were made of."""
        return [each for sets in self.attacks.values() for each in sets]


@dataclass(frozen=True, slots=True)
class Attacker:
    """Somebody with gradients of a model, or, where they are not `exact`, of a surrogate.

    Families that are `left_out` are not tried.
    """

    module: nn.Module
    backend: Backend
    conditions: Sequence[Condition]
    exact: bool
    reporter: Reporter
    left_out: Collection[str] = ()

    def material(self, samples: Float32Array, *, seed: int, attacked: int) -> Material:
        """Clean samples (n, *shape), as they are and changed, and attacks on them; of large inputs fewer samples."""
        view = View(self.backend.info)
        rng = np.random.default_rng((seed, 1))
        images = view.view(samples[: self._most_samples])
        times = _TIMES_DRIFTED if self.conditions else 0
        benign = [images, *(drawn(self.conditions, images, rng).images for _ in range(times))]
        attacks = self.attacks(samples, seed=seed, attacked=attacked)
        return Material(view.own(np.concatenate(benign)), len(images), attacks, self.exact)

    def attacks(self, samples: Float32Array, *, seed: int, attacked: int) -> dict[str, list[Attacked]]:
        """Craft attacks on clean samples (n, *shape), families and strengths, and keep those that fool the model.

        By family, a set for each strength, as it is and laundered. Where gradients are those of a surrogate, few fool
        the model, and all are kept. Each attacks so many samples; of large inputs fewer, so that all fits into a
        gigabyte or so.
        """
        view = View(self.backend.info)
        rng, draws = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
        images = view.view(samples[: self._most_samples])
        cases = list(_cases(self.left_out, image=view.image))
        most = _MOST_VALUES // math.prod(self.backend.info.shape) // len(cases) // (1 + _LAUNDERED)
        attacked = min(attacked, max(most, _LEAST_FOOLED))
        found: dict[str, list[Attacked]] = {}
        with one_thread(), self.reporter.stage("crafting attacks to learn from", len(cases)) as advance:
            for family, make, strength in cases:
                rows = rng.permutation(len(images))[:attacked]
                made = view.view(self._craft(make, strength, view.own(images[rows]), draws))
                labels = _labels(self.backend, view.own(images[rows]))
                kept = _fooling(made, labels, self.backend, view) if self.exact else (made, labels)
                advance(1)
                if len(kept[0]) >= min(_LEAST_FOOLED, attacked // 4):
                    images_of, labels_of = zip(kept, *self._laundered(*kept, view, rng), strict=True)
                    attacks = Attacked(view.own(np.concatenate(images_of)), np.concatenate(labels_of))
                    found.setdefault(family, []).append(attacks)
        return found

    @property
    def _most_samples(self) -> int:
        return max(_MOST_VALUES // math.prod(self.backend.info.shape) // (1 + _TIMES_DRIFTED), _LEAST_FOOLED)

    def _laundered(
        self, made: Bytes, labels: IntArray, view: View, rng: np.random.Generator
    ) -> Iterator[tuple[Bytes, IntArray]]:
        for _ in range(_LAUNDERED if self.conditions else 0):
            laundered = drawn(self.conditions, made, rng).images
            yield _fooling(laundered, labels, self.backend, view) if self.exact else (laundered, labels)

    def _craft(self, make: Perturbation, strength: float, x: Float32Array, draws: torch.Generator) -> Float32Array:
        info = self.backend.info
        layout = of_model(info)
        parts = torch.split(to_channels_first(torch.from_numpy(x), layout), _BATCH)
        made = [make(self._classify, part, strength, info.bounds, draws).detach() for part in parts]
        crafted: Float32Array = from_channels_first(torch.cat(made), info.shape, layout).numpy()
        return np.ascontiguousarray(crafted)

    def _classify(self, x: Tensor) -> Tensor:
        """Of inputs with their channels first, as perturbations have them."""
        info = self.backend.info
        logits: Tensor = self.module(from_channels_first(x, info.shape, of_model(info)))
        return logits


def _cases(left_out: Collection[str], *, image: bool) -> Iterator[tuple[str, Perturbation, float]]:
    for family, (make, strengths) in FAMILIES.items():
        if family not in left_out and (image or family not in IMAGES_ONLY):
            for strength in strengths:
                yield family, make, strength


def _fooling(made: Bytes, labels: IntArray, backend: Backend, view: View) -> tuple[Bytes, IntArray]:
    won = _labels(backend, view.own(made)) != labels
    return made[won], labels[won]


def _labels(backend: Backend, x: Float32Array) -> IntArray:
    parts = torch.split(torch.from_numpy(x), backend.preferred_batch)
    labels: IntArray = torch.cat([backend.logits(part).argmax(dim=1) for part in parts]).numpy()
    return labels
