"""Each detector once more, with gradients: the scores that `guard.screen` finds one by one, of whole batches.

Squeezers have no gradients of use: they run as they are, and gradients go straight through (Athalye et al., 2018).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from guard.errors import BackendError
from guard.layout import from_channels_first, to_channels_first
from guard.offline.view import View
from guard.offline.whitebox import white_box
from guard.profile import spec
from guard.profile.profile import Profile
from guard.screen.backends import network_backend
from guard.screen.mutations import Wanted, make
from guard.screen.occlusion import masks_of
from guard.values import ModelInfo

_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class Asked:
    """Inputs in the model's units, the model's logits of them, the labels to score them under, and the noise."""

    x: Tensor
    logits: Tensor
    labels: Tensor
    copies: int
    rng: torch.Generator


Scorer: TypeAlias = Callable[[Asked], Tensor]


def scorer(detector: spec.DetectorSpec, profile: Profile, model: nn.Module) -> Scorer:
    """The score of a detector, over a torch module of the model.

    Raises:
        BackendError: it can't be had with gradients.
    """
    view = View(profile.model)
    match detector:
        case spec.ConfidenceSpec():
            return lambda asked: -margins(asked.logits, asked.labels)
        case spec.SensitivitySpec():
            return partial(_sensitivity, model, detector.mutation, view)
        case spec.SqueezingSpec():
            return partial(_squeezing, model, detector.squeezers, profile.model)
        case spec.OcclusionSpec():
            return partial(_occlusion, model, *_covers(detector, view))
        case spec.NetworkSpec(on="auxiliary"):
            return partial(_disagreement, _network(detector, profile))
        case spec.NetworkSpec():
            return partial(_log_odds, _network(detector, profile))
        case _:
            raise BackendError("nobody has rebuilt it with gradients")


def _sensitivity(model: nn.Module, mutation: spec.RandomMutation, view: View, asked: Asked) -> Tensor:
    copies = mutated(mutation, asked.x.repeat_interleave(asked.copies, dim=0), view, asked.rng)
    found = margins(model(copies), asked.labels.repeat_interleave(asked.copies))
    return -found.reshape(-1, asked.copies).mean(dim=1)


def _squeezing(model: nn.Module, squeezers: tuple[spec.Squeezer, ...], info: ModelInfo, asked: Asked) -> Tensor:
    own = asked.logits.softmax(dim=1)
    squeezed = [model(_straight_through(each, asked.x, info)).softmax(dim=1) for each in squeezers]
    return torch.stack([(each - own).abs().sum(dim=1) for each in squeezed]).amax(dim=0)


def _straight_through(squeezer: spec.Squeezer, x: Tensor, info: ModelInfo) -> Tensor:
    rows = np.ascontiguousarray(x.detach().numpy())
    made = np.empty_like(rows)
    make(squeezer, [Wanted(row, 1) for row in rows], made, info.bounds, info.layout)
    return x + (torch.from_numpy(made) - x.detach())


def _occlusion(model: nn.Module, kept: Tensor, fill: Tensor, asked: Asked) -> Tensor:
    masks = len(kept)
    with torch.no_grad():
        found = margins(model((asked.x[:, None] * kept + fill).flatten(0, 1)), asked.labels.repeat_interleave(masks))
    # Gradients only of the masks that the score comes from: the worst one, and the one or two in the middle.
    told = found.reshape(-1, masks).argsort(dim=1)[:, [0, (masks - 1) // 2, masks // 2]]
    copies = (asked.x[:, None] * kept[told] + fill[told]).flatten(0, 1)
    worst, *middle = margins(model(copies), asked.labels.repeat_interleave(3)).reshape(-1, 3).unbind(dim=1)
    return (middle[0] + middle[1]) / 2 - worst - margins(asked.logits, asked.labels)


def _covers(detector: spec.OcclusionSpec, view: View) -> tuple[Tensor, Tensor]:
    """What is kept of an input under each mask, as factors, and what is put in its place."""
    single = masks_of(detector).single
    made = np.empty((2, single.copies, *view.info.shape), np.float32)
    for value, copies in enumerate(made):
        blank = np.full(view.info.shape, value, np.float32)
        make(single.source.mutation, [Wanted(blank, single.copies)], copies, view.info.bounds, view.info.layout)
    fill, filled = torch.from_numpy(made)
    return filled - fill, fill


def _log_odds(network: nn.Module, asked: Asked) -> Tensor:
    answer = network(asked.x)
    odds: Tensor = answer[:, 1] - answer[:, 0]
    return odds


def _disagreement(auxiliary: nn.Module, asked: Asked) -> Tensor:
    return nn.functional.cross_entropy(auxiliary(asked.x), asked.labels, reduction="none")


def _network(detector: spec.NetworkSpec, profile: Profile) -> nn.Module:
    backend = network_backend(detector, profile.bytes_of(detector), profile.model)
    x = torch.from_numpy(profile.canaries.inputs)
    try:
        module = white_box(backend.content, backend.info)
        with torch.no_grad():
            apart = float((module(x) - backend.logits(x)).abs().max())
    except Exception as exc:  # a module may raise anything
        raise BackendError(f"it can't be made a torch module: {exc}") from exc
    finally:
        backend.close()
    if not apart <= _TOLERANCE:
        raise BackendError(f"as a torch module it answers otherwise, by {apart:.2g}")
    return module


def mutated(mutation: spec.RandomMutation, x: Tensor, view: View, rng: torch.Generator) -> Tensor:
    """A copy of each row, as `guard.screen.mutations` makes them."""
    bounds, ones = view.info.bounds, [1] * (x.ndim - 1)
    match mutation:
        case spec.Gaussian(sigma=sigma):
            return x + sigma * torch.randn(x.shape, generator=rng)
        case spec.Uniform(width=width):
            return (x + width * (2 * torch.rand(x.shape, generator=rng) - 1)).clamp(*bounds)
        case spec.ContrastBrightness(contrast=contrast, brightness=brightness):
            gain, offset = (2 * torch.rand(2, len(x), *ones, generator=rng) - 1).unbind()
            mean = x.flatten(1).mean(dim=1).reshape(-1, *ones)
            moved = (x - mean) * (1 + contrast * gain) + mean + brightness * (bounds[1] - bounds[0]) * offset
            return moved.clamp(*bounds)
        case spec.ShiftRotate():
            return _moved(mutation, x, view, rng)


def _moved(mutation: spec.ShiftRotate, x: Tensor, view: View, rng: torch.Generator) -> Tensor:
    image = to_channels_first(x, view.info.layout)
    height, width = image.shape[-2:]
    turn, right, down = (2 * torch.rand(3, len(x), generator=rng) - 1).unbind()
    angle = math.radians(mutation.max_degrees) * turn
    shift = 2 * mutation.max_shift_px
    rows = (
        (angle.cos(), -angle.sin() * height / width, right * shift / width),
        (angle.sin() * width / height, angle.cos(), down * shift / height),
    )
    affine = torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)
    grid = functional.affine_grid(affine, list(image.shape), align_corners=False)
    moved = functional.grid_sample(image, grid, padding_mode="border", align_corners=False)
    return from_channels_first(moved, view.info.shape, view.info.layout)


def margins(logits: Tensor, labels: Tensor) -> Tensor:
    """How far each label's logit is above the best other one."""
    return logits.gather(1, labels[:, None])[:, 0] - logits.scatter(1, labels[:, None], -torch.inf).amax(dim=1)
