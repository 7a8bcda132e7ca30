"""An attacker of a running service, query by query: what they see of it, how they hide, and how far they got."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.queries import attacks
from benchmarks.queries.attacks import Budget
from guard.values import Float32Array

_CLASSES: Final = 10
_CERTAIN = 30.0
_HOSTS = 250


class Client(Protocol):
    """Who asks a service."""

    def ask(self, image: Float32Array, source: str) -> Float32Array | None:
        """The logits of one image (*dims), asked for from a loopback address; None if it was rejected."""
        ...

    def close(self) -> None:
        """Close the connection."""
        ...


@dataclass(slots=True)
class Others:
    """Honest clients, each with an address, who send images that nobody attacks; how many were asked and rejected."""

    client: Client
    images: Float32Array
    asked: int = 0
    rejected: int = 0

    def send(self, count: int) -> None:
        """Send some images, the next ones in turn."""
        for _ in range(count):
            image = self.images[self.asked % len(self.images)]
            self.rejected += self.client.ask(image, address(2, self.asked % len(self.images))) is None
            self.asked += 1


@dataclass(frozen=True, slots=True)
class Hiding:
    """How an attacker's queries come: so long apart, so many of others between two, and from how many addresses."""

    pause_s: float = 0.0
    between: int = 0
    rotated: bool = False


@dataclass(slots=True)
class Session:
    """One attacker of one service, whose addresses begin at number `first`. `gaps_s` are the times between queries."""

    client: Client
    hiding: Hiding
    others: Others
    first: int = 0
    asked: int = 0
    last_s: float = -np.inf
    gaps_s: list[float] = field(default_factory=list)

    def ask(self, image: Float32Array) -> Float32Array | None:
        """Ask once the time has come; None if it was rejected."""
        if self.asked:
            self.others.send(self.hiding.between)
            time.sleep(max(0.0, self.last_s + self.hiding.pause_s - time.monotonic()))
            self.gaps_s.append(time.monotonic() - self.last_s)
        self.last_s = time.monotonic()
        self.asked += 1
        return self.client.ask(image, address(1, self.first + (self.asked if self.hiding.rotated else 0)))


class Remote(nn.Module):
    """The service as a network. Who is rejected learns no scores: it counts as the true class, for certain."""

    def __init__(self, session: Session, label: int) -> None:
        super().__init__()
        self._session = session
        self._rejected = np.eye(_CLASSES, dtype=np.float32)[label] * _CERTAIN
        self._answers: dict[bytes, Float32Array | None] = {}

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, classes) of images (n, *dims), asked one by one. What was asked before is known."""
        answers = [self._answer(image) for image in x.numpy()]
        return torch.from_numpy(np.stack([self._rejected if each is None else each for each in answers]))

    def rejected(self, image: Float32Array) -> bool:
        """Whether an image that was asked about was rejected."""
        return self._answers[image.tobytes()] is None

    def _answer(self, image: Float32Array) -> Float32Array | None:
        name = image.tobytes()
        if name not in self._answers:
            self._answers[name] = self._session.ask(image)
        return self._answers[name]


@dataclass(frozen=True, slots=True)
class Fate:
    """How an attack on one image went: at which query it succeeded and was first rejected, and how many were."""

    queries: int
    success: int | None
    first_rejection: int | None
    rejected: int


def attack(
    name: str, session: Session, image: Float32Array, label: int, *, start: Float32Array, budget: Budget, seed: int
) -> Fate:
    """Attack one image (*dims) through a session, beginning at one of another class where the attack needs that."""
    net = Remote(session, label)
    run = attacks.run(name, net, image[None], budget, seed=seed, start=start[None])
    sent = run.sent if run.success is None else run.sent[: run.success + 1]
    rejected = np.flatnonzero([net.rejected(each) for each in sent])
    return Fate(
        queries=len(sent),
        success=None if run.success is None else run.success + 1,
        first_rejection=int(rejected[0]) + 1 if len(rejected) else None,
        rejected=len(rejected),
    )


def summary(fates: Sequence[Fate]) -> dict[str, float | int | None]:
    """What a cell of the table says."""
    successes = [fate.success for fate in fates if fate.success is not None]
    first = [fate.first_rejection for fate in fates if fate.first_rejection is not None]
    return {
        "runs": len(fates),
        "successes": len(successes),
        "median_success": statistics.median(successes) if successes else None,
        "runs_rejected": len(first),
        "median_rejection": statistics.median(first) if first else None,
        "queries": sum(fate.queries for fate in fates),
        "rejected": sum(fate.rejected for fate in fates),
    }


def address(kind: int, number: int) -> str:
    """A loopback address, another one for each number below sixty thousand."""
    return f"127.{kind}.{number // _HOSTS % _HOSTS}.{number % _HOSTS + 1}"
