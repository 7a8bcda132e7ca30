"""Detectors and their trials: a statistical test that buys evidence with evaluations.

A detector knows its statistics and never the network, the batching or the device. It opens one trial an input; the
trial says which copies it wants classified, is told the logits, and at any time says what can be said so far.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from guard.profile.spec import Identity, Mutation
from guard.values import Finding

MODEL = "model"
"""The backend that answers for the guarded model."""

NETWORK = "network"
"""The backend that holds the detector network."""


@dataclass(frozen=True, slots=True)
class Probes:
    """Copies `start` to `start + count` of an item's stream of copies under one mutation, for one backend.

    Streams belong to the item: two trials that ask for the same copies share one evaluation of each.
    """

    mutation: Mutation
    start: int = 0
    count: int = 1
    backend: str = MODEL


ITSELF = Probes(Identity())
"""The input, unchanged: its label is the one that mutants are compared with, fixed before any is drawn."""


@runtime_checkable
class Trial(Protocol):
    """One input under one detector."""

    def ask(self) -> Sequence[Probes]:
        """The copies it wants classified next; empty when it is done."""
        ...

    def tell(self, probes: Probes, logits: Float[Tensor, "count classes"]) -> None:
        """Take the logits of copies that were asked for, in the order of asking."""
        ...

    def finding(self) -> Finding:
        """What can be said with the evidence so far."""
        ...


@runtime_checkable
class Detector(Protocol):
    """A configured detector."""

    @property
    def name(self) -> str:
        """Label in findings and metrics."""
        ...

    def open(self) -> Trial:
        """Start on one input."""
        ...


def margins(logits: Float[Tensor, "count classes"], label: int) -> Float[Tensor, " count"]:
    """Logit of `label` above the best other class; negative where the label changed."""
    others = logits.clone()
    others[:, label] = -float("inf")
    return logits[:, label] - others.amax(dim=1)
