"""Choosing detector parameters by measuring the model on clean samples."""

from __future__ import annotations

import timeit
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import numpy as np
import structlog
import torch
from torch import Tensor

from guard.layout import is_image
from guard.model.backend import Backend
from guard.profile import spec
from guard.screen.mutations import copies
from guard.values import Float32Array, Float64Array

# Shares of the input's range.
_SIGMAS = (0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.25, 0.35)
_COPIES = 16
_TUNING_SAMPLES = 96
_TOLERATED_CHANGES = 0.1
_KEPT_LABELS = 0.95
_MOST_EVALUATIONS = 16
_TRIES = 5
_LEAST_P0 = 0.02
_LEAST_P1 = 0.2
_MOST_P1 = 0.5
_WEAKEST_SQUEEZER = spec.BitDepth(bits=6)

_log = structlog.get_logger(__name__)


def label_change_rates(
    backend: Backend, samples: Float32Array, mutation: spec.Mutation, count: int, rng: np.random.Generator
) -> Float64Array:
    """Share of `count` copies of each sample whose label differs from the sample's own."""
    rates = np.empty(len(samples))
    for row, sample in enumerate(samples):
        mutants = copies(mutation, sample, count, rng, backend.info.bounds, backend.info.layout)
        labels = _classify(backend, torch.from_numpy(np.concatenate([sample[None], mutants]))).argmax(dim=1)
        rates[row] = float((labels[1:] != labels[0]).double().mean())
    return rates


def stable_sigmas(backend: Backend, samples: Float32Array, rng: np.random.Generator) -> tuple[float, ...]:
    """Noise that benign inputs bear, weakest first: in nine copies of ten, nine inputs in ten keep their label.

    Where the weakest noise is too strong already, it is all there is, with a warning.
    """
    span = backend.info.bounds[1] - backend.info.bounds[0]
    borne = []
    for share in _SIGMAS:
        rates = label_change_rates(backend, samples[:_TUNING_SAMPLES], spec.Gaussian(sigma=share * span), _COPIES, rng)
        changes = float(np.quantile(rates, 1 - _TOLERATED_CHANGES))
        if changes > _TOLERATED_CHANGES:
            break
        borne.append(share * span)
    if not borne:
        borne.append(_SIGMAS[0] * span)
        _log.warning(
            "the weakest noise moves the labels of too many clean samples, and is used all the same: sensitivity and "
            "certificates will tell little; check that samples are scaled as the model was trained on",
            sigma=borne[0],
            label_change_rate_of_one_in_ten=changes,
        )
    return tuple(borne)


def choose_hypotheses(rates: Float64Array) -> tuple[float, float]:
    """SPRT's p0 and p1 from benign label-change rates: what three in four stay under, and nineteen in twenty."""
    p0 = min(max(float(np.quantile(rates, 0.75)), _LEAST_P0), _MOST_P1 / 2)
    p1 = min(max(float(np.quantile(rates, 0.95)), 2 * p0, _LEAST_P1), _MOST_P1)
    return p0, p1


def choose_squeezers(backend: Backend, samples: Float32Array) -> tuple[spec.Squeezer, ...]:
    """The strongest squeezer of each kind that leaves the label of nineteen benign inputs in twenty alone.

    Non-local means takes a millisecond for the smallest image. It is left out where Wald's test costs a stable input
    less than one such copy. Where no squeezer does, the weakest there is, with a warning.
    """
    families: list[Sequence[spec.Squeezer]] = [[spec.BitDepth(bits=b) for b in (1, 2, 3, 4, 5)]]
    if is_image(backend.info.shape, backend.info.layout):
        families.append([spec.Median(size=5), spec.Median(size=3)])
        if _evaluations_a_copy(backend, samples, spec.NonLocalMeans()) <= _MOST_EVALUATIONS:
            families.append([spec.NonLocalMeans(h=h) for h in (32, 16, 8, 4)])
    chosen = (_strongest(backend, samples[: 2 * _TUNING_SAMPLES], family) for family in families)
    found = tuple(squeezer for squeezer in chosen if squeezer is not None)
    if not found:
        _log.warning(
            "every squeezer moves the labels of too many clean samples, and the weakest is used all the same: "
            "squeezing will tell little; check that samples are scaled as the model was trained on",
            squeezer=_WEAKEST_SQUEEZER.name,
        )
    return found or (_WEAKEST_SQUEEZER,)


def _evaluations_a_copy(backend: Backend, samples: Float32Array, squeezer: spec.Squeezer) -> float:
    """What making a copy costs, in evaluations of the model."""
    rng = np.random.default_rng(0)  # squeezers draw nothing
    batch = torch.from_numpy(samples[: backend.preferred_batch])
    copy_s = _least_s(partial(copies, squeezer, samples[0], 1, rng, backend.info.bounds, backend.info.layout))
    return copy_s * len(batch) / _least_s(partial(_classify, backend, batch))


def _least_s(work: Callable[[], object]) -> float:
    return min(timeit.repeat(work, number=1, repeat=_TRIES))


def _strongest(backend: Backend, samples: Float32Array, family: Iterable[spec.Squeezer]) -> spec.Squeezer | None:
    rng = np.random.default_rng(0)  # squeezers draw nothing
    for squeezer in family:
        if 1 - label_change_rates(backend, samples, squeezer, 1, rng).mean() >= _KEPT_LABELS:
            return squeezer
    return None


def _classify(backend: Backend, x: Tensor) -> Tensor:
    return torch.cat([backend.logits(part) for part in torch.split(x, backend.preferred_batch)])
