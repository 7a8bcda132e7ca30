"""Perturbations for training detector networks: what attacks leave in an input, at many strengths.

These are training material, not an evaluation: each takes a strength and makes no promise to succeed. Images have
their channels first.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, TypeAlias

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
_CONFIDENT_STEPS, _CONFIDENT_RATE, _CONFIDENT_WEIGHT = 40, 0.02, 5.0
_PATCH_STEP = 0.2
_SPATIAL_DRAWS, _SHIFT = 12, 0.2
_SQUARE_DRAWS, _SQUARE_SHARE = 30, 0.3
_TINY = 1e-12


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
        gap = _lead(logits, labels)
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


def iterated_l2(model: Classifier, x: Images, strength: float, bounds: Bounds, rng: torch.Generator) -> Images:  # noqa: ARG001 - as single_step
    """Projected gradient ascent in an L2 ball of `strength` times the range."""
    labels, radius = _labels(model, x), _epsilon(strength, bounds)
    moved = x.clone()
    for _ in range(_ITERATIONS):
        gradient = _gradient(model, moved, labels)
        moved = moved + radius / 4 * gradient / _norms(gradient).clamp_min(_TINY)
        change = moved - x
        moved = (x + change * (radius / _norms(change).clamp_min(_TINY)).clamp(max=1)).clamp(*bounds)
    return moved


def confident(model: Classifier, x: Images, strength: float, bounds: Bounds, rng: torch.Generator) -> Images:  # noqa: ARG001 - as single_step
    """A small L2 change that wins by `strength` logits, by Adam on its size and the margin (Carlini and Wagner, 2017).

    The smallest that won is returned, or the last one where none did.
    """
    labels, span = _labels(model, x), bounds[1] - bounds[0]
    change = torch.zeros_like(x, requires_grad=True)
    optimiser = torch.optim.Adam([change], lr=_CONFIDENT_RATE * span)
    found, least = x.clone(), torch.full((len(x),), torch.inf, device=x.device)
    for _ in range(_CONFIDENT_STEPS):
        moved = (x + change).clamp(*bounds)
        gap = _lead(model(moved), labels) + strength
        size = (change / span).flatten(1).square().sum(dim=1)
        better = (gap.detach() <= 0) & (size.detach() < least)
        found[better], least[better] = moved.detach()[better], size.detach()[better]
        optimiser.zero_grad()
        torch.autograd.backward((size + _CONFIDENT_WEIGHT * gap.clamp_min(0)).sum())
        optimiser.step()
    lost = least.isinf()
    found[lost] = (x + change.detach()).clamp(*bounds)[lost]
    return found


def patch(model: Classifier, x: Images, strength: float, bounds: Bounds, rng: torch.Generator) -> Images:
    """A square of `strength` of the area anywhere on an image, its content by gradient ascent (Brown et al., 2017)."""
    labels, (height, width) = _labels(model, x), x.shape[-2:]
    side = max(1, round((strength * height * width) ** 0.5))
    masks = torch.zeros(len(x), height, width, device=x.device)
    for mask in masks:
        top, left = (int(torch.randint(max(size - side, 0) + 1, (1,), generator=rng)) for size in (height, width))
        mask[top : top + side, left : left + side] = 1
    where = masks.reshape(len(x), *[1] * (x.ndim - 3), height, width).bool()
    noise = torch.empty_like(x).uniform_(*bounds, generator=rng)
    moved = torch.where(where, noise, x)
    for _ in range(_ITERATIONS):
        step = _epsilon(_PATCH_STEP, bounds) * _gradient(model, moved, labels).sign()
        moved = torch.where(where, (moved + step).clamp(*bounds), x)
    return moved


def spatial(model: Classifier, x: Images, strength: float, bounds: Bounds, rng: torch.Generator) -> Images:
    """Turned by up to `strength` degrees, shifted by up to a tenth: the worst of some draws (Engstrom et al., 2019)."""
    labels = _labels(model, x)
    planes = x.reshape(len(x), -1, *x.shape[-2:])
    worst, found = torch.full((len(x),), torch.inf, device=x.device), x.clone()
    for _ in range(_SPATIAL_DRAWS):
        turn, down, right = torch.empty(3, len(x)).uniform_(-1, 1, generator=rng)
        angle = turn * math.radians(strength)
        rows = [[angle.cos(), -angle.sin(), _SHIFT * right], [angle.sin(), angle.cos(), _SHIFT * down]]
        affine = torch.stack([torch.stack(row, dim=1) for row in rows], dim=1).to(x.device)
        grid = functional.affine_grid(affine, list(planes.shape), align_corners=False)
        turned = functional.grid_sample(planes - bounds[0], grid, align_corners=False) + bounds[0]
        moved = turned.reshape(x.shape).clamp(*bounds)
        with torch.no_grad():
            lead = _lead(model(moved), labels)
        better = lead < worst
        found[better], worst[better] = moved[better], lead[better]
    return found


def squares(model: Classifier, x: Images, strength: float, bounds: Bounds, rng: torch.Generator) -> Images:
    """Squares at the bound of an L-inf ball, drawn by chance and kept where they help (Andriushchenko et al., 2020)."""
    labels, epsilon, shape = _labels(model, x), _epsilon(strength, bounds), x.shape
    planes = x.reshape(len(x), -1, *x.shape[-2:])
    count, channels, height, width = planes.shape
    change = epsilon * _signs((count, channels, 1, width), rng).expand(-1, -1, height, -1).clone()
    worst = torch.full((count,), torch.inf)
    kept = change.clone()
    for draw in range(_SQUARE_DRAWS):
        with torch.no_grad():
            lead = _lead(model((planes + change).clamp(*bounds).reshape(shape)), labels)
        better = lead < worst
        kept[better], worst[better] = change[better], lead[better]
        change = kept.clone()
        side = max(1, round(min(height, width) * (_SQUARE_SHARE * (1 - draw / _SQUARE_DRAWS)) ** 0.5))
        top, left = (int(torch.randint(size - side + 1, (1,), generator=rng)) for size in (height, width))
        change[:, :, top : top + side, left : left + side] = epsilon * _signs((count, channels, 1, 1), rng)
    return (planes + kept).clamp(*bounds).reshape(shape)


Perturbation: TypeAlias = Callable[[Classifier, Images, float, Bounds, torch.Generator], Images]
LEVELS: Final = (2 / 255, 4 / 255, 8 / 255, 16 / 255, 0.1, 0.15, 0.2, 0.3)
"""Strengths in L-inf. Evaluations go below the least, for attackers are not bound to what was learnt."""

# Strengths are shares of the input's range for L-inf steps, L2 norms in ranges, logits won by, overshoot past the
# boundary, shares of values or of the area, and degrees.
FAMILIES: Final[dict[str, tuple[Perturbation, tuple[float, ...]]]] = {
    "single_step": (single_step, LEVELS),
    "iterated": (iterated, LEVELS),
    "iterated_l2": (iterated_l2, (0.25, 0.5, 1.0, 2.0, 4.0)),
    "confident": (confident, (0.0, 2.0, 5.0, 10.0, 20.0)),
    "to_boundary": (to_boundary, (0.02, 0.2, 0.5, 1.0)),
    "sparse": (sparse, (0.01, 0.03, 0.06, 0.12)),
    "squares": (squares, LEVELS[1:]),
    "patch": (patch, (0.04, 0.08, 0.16)),
    "spatial": (spatial, (15.0, 30.0)),
}
IMAGES_ONLY: Final = frozenset({"squares", "patch", "spatial"})
"""Families that need an image."""


def _epsilon(strength: float, bounds: Bounds) -> float:
    return strength * (bounds[1] - bounds[0])


def _labels(model: Classifier, x: Images) -> Tensor:
    with torch.no_grad():
        return model(x).argmax(dim=1)


def _lead(logits: Tensor, labels: Tensor) -> Tensor:
    """How far each label's logit is above the best other one."""
    return logits.gather(1, labels[:, None])[:, 0] - logits.scatter(1, labels[:, None], -torch.inf).amax(dim=1)


def _norms(x: Images) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(x.flatten(1), dim=1)
    return norms.reshape(-1, *[1] * (x.ndim - 1))


def _signs(shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
    return torch.randint(2, shape, generator=rng).float() * 2 - 1


def _gradient(model: Classifier, x: Images, labels: Tensor) -> Images:
    x = x.detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(functional.cross_entropy(model(x), labels, reduction="sum"), x)
    return gradient
