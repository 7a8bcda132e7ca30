"""What attackers who know Guard minimise, step by step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

import torch
from torch import Tensor

from guard.offline.evaluate.rebuilt import margins
from guard.offline.evaluate.twin import Look, Twin

LEAD: Final = 1.0
"""By how many logits an image is to get its new class before only the detectors count."""
_MOMENTUM = 0.75
_HARDER = 1.2
_EVERY = 5
_WEIGHTS = (0.01, 100.0)
_TINY = 1e-12


@dataclass(frozen=True, slots=True)
class Effort:
    """How hard an attacker tries: so many steps in each of some rounds, each of which aims at another wrong class.

    What is random is looked at in so many copies. An image that surprises by `goal` or less is ordinary enough.
    """

    steps: int
    rounds: int
    copies: int
    goal: float


@dataclass(frozen=True)
class Task:
    """Images (n, *shape) in [0, 1], their labels, and the logits of an ordinary image of each class."""

    twin: Twin
    x: Tensor
    labels: Tensor
    ordinary: Tensor
    effort: Effort
    rng: torch.Generator

    def aims(self, x: Tensor) -> Tensor:
        """Wrong classes for each image, those first that are likeliest at x, (n, classes - 1)."""
        with torch.no_grad():
            others = self.twin.logits(x).scatter(1, self.labels[:, None], -torch.inf)
        return others.argsort(dim=1, descending=True)[:, :-1]

    def look(self, at: Tensor, aims: Tensor) -> Look:
        """As if they had the labels that they are to get: so the way there leads to ordinary images of that class."""
        return self.twin(at, copies=self.effort.copies, rng=self.rng, labels=aims)


class Direction(Protocol):
    """What an attacker minimises, and how."""

    def __call__(self, at: Tensor) -> tuple[Tensor, Look | None]:
        """Which way to go from here, (n, *shape), in steps up and down; and what was seen, if anything was."""
        ...


class Adaptive:
    """Classifier and detectors in one loss, weighed image by image (Carlini and Wagner, 2017; Tramer et al., 2020).

    The detectors' weight grows while an image is misclassified and not ordinary, and shrinks while it is not.
    """

    def __init__(self, task: Task, aims: Tensor) -> None:
        self._task, self._aims = task, aims
        self._weight = torch.ones(len(aims), dtype=torch.float64)
        self._speed = torch.zeros(())

    def __call__(self, at: Tensor) -> tuple[Tensor, Look]:
        """Down the weighted sum, with momentum."""
        look = self._task.look(at, self._aims)
        lead = -margins(look.logits, self._aims)
        excess = (look.combined - self._task.effort.goal).clamp_min(0)
        down = gradient((lead + LEAD).clamp_min(0) + self._weight * excess, at)
        self._weight = torch.where(lead.detach() < 0, self._weight * _HARDER, self._weight / _HARDER).clamp(*_WEIGHTS)
        self._speed = _MOMENTUM * self._speed + down / _norms(down, 1)
        return self._speed.sign(), look


class Orthogonal:
    """Down the classifier's gradient until an image is misclassified, then down that of the detectors.

    Each without its part against the other, so that no step takes back what the other won (Bryniarski et al., 2021).
    Where they agree, which theirs did not, both are left whole.
    """

    def __init__(self, task: Task, aims: Tensor) -> None:
        self._task, self._aims = task, aims

    def __call__(self, at: Tensor) -> tuple[Tensor, Look]:
        """Down one of the two."""
        look = self._task.look(at, self._aims)
        lead = -margins(look.logits, self._aims)
        to_class, to_ordinary = gradient(lead, at, keep=True), gradient(look.combined, at)
        won = _like(lead.detach() < 0, at)
        return torch.where(won, _across(to_ordinary, to_class), _across(to_class, to_ordinary)).sign(), look


class Matching:
    """Towards the logits of an ordinary image of another class, under noise too (Tramer et al., 2020, section 5).

    The detectors lead nowhere here, and are looked at now and then, to keep what passes them.
    """

    def __init__(self, task: Task, aims: Tensor) -> None:
        self._task, self._aims, self._wanted = task, aims, task.ordinary[aims]
        self._speed = torch.zeros(())
        self._steps = 0

    def __call__(self, at: Tensor) -> tuple[Tensor, Look | None]:
        """Down the squared distance, with momentum."""
        twin, effort = self._task.twin, self._task.effort
        shown = [twin.logits(at), *(twin.noisy(at, self._task.rng) for _ in range(effort.copies))]
        down = gradient(torch.stack([(each - self._wanted).square().sum(dim=1) for each in shown]).mean(dim=0), at)
        self._speed = _MOMENTUM * self._speed + down / _norms(down, 1)
        self._steps += 1
        if self._steps % _EVERY:
            return self._speed.sign(), None
        with torch.no_grad():
            return self._speed.sign(), self._task.look(at, self._aims)


ADAPTIVE: Final = "Adaptive PGD"
METHODS: Final[dict[str, Callable[[Task, Tensor], Direction]]] = {
    ADAPTIVE: Adaptive,
    "Orthogonal PGD": Orthogonal,
    "Logit matching": Matching,
}


def gradient(value: Tensor, at: Tensor, *, keep: bool = False) -> Tensor:
    """Of the sum of values, one for each input."""
    (found,) = torch.autograd.grad(value.sum(), at, retain_graph=keep)
    return found


def _norms(x: Tensor, order: float) -> Tensor:
    return _like(torch.linalg.vector_norm(x.flatten(1), order, dim=1).clamp_min(_TINY), x)


def _like(values: Tensor, x: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (x.ndim - 1))


def _across(a: Tensor, b: Tensor) -> Tensor:
    """Each row of a, without its part along b where that points the other way."""
    along = (a * b).flatten(1).sum(dim=1) / b.flatten(1).square().sum(dim=1).clamp_min(_TINY)
    return a - _like(along.clamp_max(0), a) * b
