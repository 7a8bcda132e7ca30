"""Attacks by somebody who has the model and Guard: they want an image misclassified, and besides ordinary to Guard.

Each step looks at an image rounded to 8 bits, so that what it finds is what is sent, and moves the one that is not.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from guard.offline.evaluate.directions import LEAD, Direction, Task, gradient
from guard.offline.evaluate.rebuilt import margins

_LEVELS = 255
_ROUNDING = 1e-6
_FIRST_STEP, _LAST_STEP = 0.3, 0.02
_RATE = 0.03
_TENFOLD = 10.0
_UNSEEN = 1e6


class Best:
    """The best 8-bit images so far, by their cost; the clean ones where none was misclassified."""

    def __init__(self, x: Tensor) -> None:
        self.images = x.clone()
        self.cost = torch.full((len(x),), torch.inf, dtype=torch.float64)
        self.steps = 0

    def offer(self, rows: Tensor, images: Tensor, cost: Tensor) -> None:
        """Take those that cost less."""
        better = cost < self.cost[rows]
        self.images[rows[better]] = images[better]
        self.cost[rows[better]] = cost[better]


def oblivious(task: Task, eps: float) -> Best:
    """Projected gradient descent (Madry et al., 2018) by somebody who does not know of Guard, with as many steps."""
    best, x, radius = Best(task.x), task.x, _radius(eps)
    rows, moved = torch.arange(len(x)), _start(task, x, radius)
    for step in range(task.effort.steps):
        at = snapped(moved).requires_grad_(True)
        logits = task.twin.logits(at)
        best.steps += len(rows)
        best.offer(rows, at.detach(), margins(logits.detach(), task.labels).double())
        way = gradient(-functional.cross_entropy(logits, task.labels, reduction="none"), at).sign()
        moved = _within(x, moved - _length(radius, step, task.effort.steps) * way, radius)
    return best


def bounded(task: Task, eps: float, method: Callable[[Task, Tensor], Direction]) -> Best:
    """Steps within an L-inf ball.

    Aims are the wrong classes that plain steps get nearest to. Later rounds are for images that were misclassified and
    are not ordinary enough yet.
    """
    best, effort, radius = Best(task.x), task.effort, _radius(eps)
    plain = oblivious(task, eps)
    best.steps, all_aims = plain.steps, task.aims(plain.images)
    for number in range(min(effort.rounds, all_aims.shape[1])):
        left = best.cost > effort.goal
        rows = (left if number == 0 else left & best.cost.isfinite()).nonzero()[:, 0]
        x, aims = task.x[rows], all_aims[rows, number]
        direction, moved = method(task, aims), _start(task, x, radius)
        for step in range(effort.steps if len(rows) else 0):
            at = snapped(moved).requires_grad_(True)
            way, look = direction(at)
            best.steps += len(rows)
            if look is not None:
                won = look.logits.detach().argmax(dim=1) == aims
                best.offer(rows, at.detach(), look.combined.detach().where(won, torch.inf))
            if bool((best.cost[rows] <= effort.goal).all()):
                break
            moved = _within(x, moved - _length(radius, step, effort.steps) * way, radius)
    return best


def carlini(task: Task) -> Best:
    """The smallest change in L2 that is misclassified and ordinary, by Adam (Carlini and Wagner, 2017).

    Each round weighs size against success anew, image by image.
    """
    best, effort, x, aims = Best(task.x), task.effort, task.x, task.aims(task.x)[:, 0]
    rows = torch.arange(len(x))
    constant = torch.ones(len(x), dtype=torch.float64)
    low, high = torch.zeros_like(constant), torch.full_like(constant, torch.inf)
    for _ in range(effort.rounds):
        change = torch.zeros_like(x, requires_grad=True)
        optimiser = torch.optim.Adam([change], lr=_RATE)
        succeeded = torch.zeros(len(x), dtype=torch.bool)
        for _ in range(effort.steps):
            moved = (x + change).clamp(0, 1)
            at = moved + (snapped(moved) - moved).detach()
            look = task.look(at, aims)
            best.steps += len(rows)
            lead, size = -margins(look.logits, aims), (at - x).flatten(1).square().sum(dim=1)
            good = (lead < 0) & (look.combined <= effort.goal)
            succeeded |= good
            cost = size.double().where(good, _UNSEEN + look.combined).where(lead < 0, torch.inf)
            best.offer(rows, at.detach(), cost.detach())
            excess = (lead + LEAD).clamp_min(0) + (look.combined - effort.goal).clamp_min(0)
            optimiser.zero_grad()
            torch.autograd.backward((size + constant * excess).sum())
            optimiser.step()
        high, low = constant.where(succeeded, high), low.where(succeeded, constant)
        constant = torch.where(high.isinf(), constant * _TENFOLD, (low + high) / 2)
    return best


def snapped(x: Tensor) -> Tensor:
    """To 8 bits, without gradients."""
    return (x.detach() * _LEVELS).round() / _LEVELS


def _radius(eps: float) -> float:
    """Whole levels, so that rounding stays within the ball."""
    return math.floor(eps * _LEVELS + _ROUNDING) / _LEVELS


def _start(task: Task, x: Tensor, radius: float) -> Tensor:
    return _within(x, x + radius * (2 * torch.rand(x.shape, generator=task.rng) - 1), radius)


def _within(x: Tensor, moved: Tensor, radius: float) -> Tensor:
    return (x + (moved - x).clamp(-radius, radius)).clamp(0, 1)


def _length(radius: float, step: int, steps: int) -> float:
    """Of a step: long ones first."""
    return radius * (_LAST_STEP + (_FIRST_STEP - _LAST_STEP) * (1 + math.cos(math.pi * step / steps)) / 2)
