"""Which mutation sensitivity works with: of what kind, and how strong, measured on attacks that calibration made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch

from guard.errors import DataError
from guard.layout import is_image
from guard.model.backend import Backend
from guard.profile import spec
from guard.screen.mutations import copies
from guard.values import Float32Array, Float64Array

KINDS: Final = ("uniform", "shift_rotate", "contrast_brightness")
"""Of mutations, beside Gaussian noise."""
TOLD: Final = "attacks_told_by_"
"""Of a kind, among what calibration measured: the share of attacks that stand out under it."""

_SAMPLES, _ATTACKS_OF_A_SET, _COPIES = 96, 6, 8
_CLEARLY = 0.1


@dataclass(frozen=True, slots=True)
class Telling:
    """The mutation to work with, and the share of attacks that stand out under the best of each kind.

    `sigma` is the deviation of the Gaussian noise that tells most, which noise of other kinds is as strong as.
    """

    mutation: spec.RandomMutation
    sigma: float
    told: Mapping[str, float]

    def with_kinds(self, kinds: Sequence[str]) -> tuple[spec.RandomMutation, ...]:
        """The mutation, and those of further kinds."""
        others = (mutation_of(kind, self.sigma) for kind in kinds if kind != self.mutation.kind)
        return (self.mutation, *others)


def most_telling(
    backend: Backend,
    samples: Float32Array,
    attacks: Sequence[Float32Array],
    sigmas: Sequence[float],
    rng: np.random.Generator,
) -> Telling:
    """The mutation under which most attacks, in sets of (n, *shape), stand out from benign samples (n, *shape).

    Gaussian noise of the weakest of equal sigmas, unless another kind tells clearly more of them: that noise is what
    certificates can share, and no other is drawn as fast. Each set counts alike, however many succeeded.
    """
    few = np.concatenate([each[rng.permutation(len(each))[:_ATTACKS_OF_A_SET]] for each in attacks if len(each)])
    benign = samples[:_SAMPLES]
    by_sigma = {sigma: _told(backend, benign, few, spec.Gaussian(sigma=sigma), rng) for sigma in sigmas}
    sigma = max(by_sigma, key=lambda each: by_sigma[each])
    image = is_image(backend.info.shape, backend.info.layout)
    others = {kind: mutation_of(kind, sigma) for kind in KINDS if image or kind != "shift_rotate"}
    (own,) = rng.spawn(1)  # so that what is drawn later does not depend on how many kinds there are
    told = {kind: _told(backend, benign, few, mutation, own) for kind, mutation in others.items()}
    found = Telling(spec.Gaussian(sigma=sigma), sigma, {"gaussian": by_sigma[sigma], **told})
    best = max(told, key=lambda kind: told[kind])
    return replace(found, mutation=others[best]) if told[best] >= by_sigma[sigma] + _CLEARLY else found


def mutation_of(kind: str, sigma: float) -> spec.RandomMutation:
    """A mutation of a kind other than Gaussian; noise as strong as Gaussian noise of this deviation.

    Raises:
        DataError: no mutation is of that kind.
    """
    match kind:
        case "uniform":
            return spec.Uniform(width=sigma * 3**0.5)  # the width whose deviation is sigma
        case "shift_rotate":
            return spec.ShiftRotate()
        case "contrast_brightness":
            return spec.ContrastBrightness()
        case _:
            raise DataError(f"no mutation is called {kind!r}: choose {', '.join(KINDS[:-1])} or {KINDS[-1]}")


def _told(
    backend: Backend,
    samples: Float32Array,
    attacks: Float32Array,
    mutation: spec.RandomMutation,
    rng: np.random.Generator,
) -> float:
    """Share of attacks whose mean margin under a mutation is outside nine in ten benign ones', too low or too high."""
    low, high = np.quantile(_mean_margins(backend, samples, mutation, rng), (0.05, 0.95))
    margins = _mean_margins(backend, attacks, mutation, rng)
    return float(((margins < low) | (margins > high)).mean())


def _mean_margins(
    backend: Backend, samples: Float32Array, mutation: spec.RandomMutation, rng: np.random.Generator
) -> Float64Array:
    """How far each sample's label leads on average over its copies, (n,)."""
    means = np.empty(len(samples))
    for row, sample in enumerate(samples):
        mutants = copies(mutation, sample, _COPIES, rng, backend.info.bounds, backend.info.layout)
        inputs = torch.from_numpy(np.concatenate([sample[None], mutants]))
        logits = torch.cat([backend.logits(part) for part in torch.split(inputs, backend.preferred_batch)])
        label = int(logits[0].argmax())
        others = logits[1:].clone()
        others[:, label] = -torch.inf
        means[row] = float((logits[1:, label] - others.amax(dim=1)).mean())
    return means
