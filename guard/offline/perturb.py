"""Perturbations for training the detector network: what attacks leave in an input, at many strengths.

Crafted on a surrogate that imitates the guarded model, since a served model gives no gradients. These are training
material, not an evaluation: each takes a strength and makes no promise to succeed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from guard.screen.mutations import Bounds

Images: TypeAlias = Float[Tensor, "batch *dims"]
Classifier: TypeAlias = Callable[[Tensor], Tensor]

_ITERATIONS = 10
_STEPS_TO_BOUNDARY = 20
_SPARSE_STEPS = 8


def single_step(model: Classifier, x: Images, strength: float, bounds: Bounds, rng: torch.Generator) -> Images:  # noqa: ARG001 - one signature for all
    """A step of `strength`, as a share of the range, in L-inf along the gradient's sign (Goodfellow et al., 2015)."""
    gradient = _gradient(model, x, _labels(model, x))
    return (x + _epsilon(strength, bounds) * gradient.sign()).clamp(*bounds)


def iterated(model: Classifier, x: Images, strength: float, bounds: Bounds, rng: torch.Generator) -> Images:
    """Projected gradient ascent in an L-inf ball from a random start (Madry et al., 2018); `strength` is a share."""
    labels = _labels(model, x)
    epsilon = _epsilon(strength, bounds)
    start = torch.empty_like(x).uniform_(-epsilon, epsilon, generator=rng)
    moved = (x + start).clamp(*bounds)
    for _ in range(_ITERATIONS):
        moved = moved + epsilon / 4 * _gradient(model, moved, labels).sign()
        moved = x + (moved - x).clamp(-epsilon, epsilon)
        moved = moved.clamp(*bounds)
    return moved


def to_boundary(model: Classifier, x: Images, strength: float, bounds: Bounds, rng: torch.Generator) -> Images:  # noqa: ARG001 - as single_step
    """Least steps across the nearest class boundary, overshot by `strength` (Moosavi-Dezfooli et al., 2016)."""
    labels = _labels(model, x)
    moved = x.clone()
    for _ in range(_STEPS_TO_BOUNDARY):
        moved.requires_grad_(True)
        logits = model(moved)
        own = logits.gather(1, labels[:, None])[:, 0]
        others = logits.scatter(1, labels[:, None], -torch.inf).amax(dim=1)
        gap = own - others
        (gradient,) = torch.autograd.grad(gap.sum(), moved)
        square = gradient.flatten(1).square().sum(dim=1).clamp_min(1e-12)
        step = (gap.detach().clamp_min(0) + 1e-3) / square
        still = (gap > 0).detach()
        shift = step.reshape(-1, *[1] * (x.ndim - 1)) * gradient
        moved = torch.where(
            still.reshape(shift.shape[:1] + (1,) * (x.ndim - 1)), moved.detach() - shift, moved.detach()
        )
        if not bool(still.any()):
            break
    return (x + (moved - x) * (1 + strength)).clamp(*bounds)


def sparse(model: Classifier, x: Images, strength: float, bounds: Bounds, rng: torch.Generator) -> Images:  # noqa: ARG001 - as single_step
    """The most salient values pushed to a bound, a few at a time, `strength` of all (after Papernot et al., 2016)."""
    labels = _labels(model, x)
    count = max(1, round(strength * x[0].numel()))
    moved = x.flatten(1).clone()
    touched = torch.zeros_like(moved, dtype=torch.bool)
    for step in range(_SPARSE_STEPS):
        share = count * (step + 1) // _SPARSE_STEPS - count * step // _SPARSE_STEPS
        if share == 0:
            continue
        gradient = _gradient(model, moved.reshape(x.shape), labels).flatten(1)
        target = torch.where(gradient > 0, bounds[1], bounds[0])
        gain = (gradient * (target - moved)).masked_fill(touched, -torch.inf)
        chosen = gain.topk(share, dim=1).indices
        moved = moved.scatter(1, chosen, target.gather(1, chosen))
        touched = touched.scatter(1, chosen, value=True)
    return moved.reshape(x.shape)


Perturbation: TypeAlias = Callable[[Classifier, Images, float, Bounds, torch.Generator], Images]

# Strengths are shares of the input's range for L-inf steps, overshoot past the boundary, and share of values moved.
FAMILIES: dict[str, tuple[Perturbation, tuple[float, ...]]] = {
    "single_step": (single_step, (0.03, 0.06, 0.1, 0.15, 0.2, 0.3)),
    "iterated": (iterated, (0.03, 0.06, 0.1, 0.15, 0.2, 0.3)),
    "to_boundary": (to_boundary, (0.02, 0.2, 0.5, 1.0)),
    "sparse": (sparse, (0.02, 0.05, 0.08, 0.12)),
}


def _epsilon(strength: float, bounds: Bounds) -> float:
    return strength * (bounds[1] - bounds[0])


def _labels(model: Classifier, x: Images) -> Tensor:
    with torch.no_grad():
        return model(x).argmax(dim=1)


def _gradient(model: Classifier, x: Images, labels: Tensor) -> Images:
    x = x.detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(functional.cross_entropy(model(x), labels, reduction="sum"), x)
    return gradient
