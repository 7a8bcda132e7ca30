"""Detectors and their trials: a statistical test that buys evidence with evaluations.

A detector knows its statistics and never the network, the batching or the device. It opens one trial an input; the
trial says which copies it wants classified, is told the answers, and at any time says what can be said so far.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
from jaxtyping import Bool, Float

from guard.profile.spec import RANDOM, Identity, Mutation
from guard.screen.boundaries import START, Boundaries, Stop
from guard.values import Finding, Float32Array, IntArray

MODEL = "model"
"""The backend that answers for the guarded model."""

NETWORK = "network"
"""The backend that holds the detector network on inputs. Each detector network has one, of its own name."""


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """A kind of copy, for one backend. `tag` distinguishes its noise from that of others; None where none is drawn."""

    mutation: Mutation
    backend: str
    tag: bytes | None


@cache
def source(mutation: Mutation, backend: str = MODEL) -> Source:
    """The one object for these copies, so that those that are the same are found to be by identity."""
    return Source(mutation, backend, mutation.model_dump_json().encode() if isinstance(mutation, RANDOM) else None)


class Probes(NamedTuple):
    """Copies `start` to `start + copies` of an item's stream of copies from one source.

    Streams belong to the item: two trials that ask for the same copies share one evaluation of each.
    """

    source: Source
    start: int = 0
    copies: int = 1


ITSELF = Probes(source(Identity()))
"""The input, unchanged: its label is the one that mutants are compared with, fixed before any is drawn."""


class Answers(NamedTuple):
    """What a backend said about copies, one row each.

    `changed` says whose label is not the input's own, `changes` how many are; `margins` is how far the logit of the
    input's own label is above the best other class, negative where it changed, and `margin_sum` their sum. They are
    empty for a backend that is not the guarded model.
    """

    logits: Float[npt.NDArray[np.float32], "count classes"]
    changed: Bool[npt.NDArray[np.bool_], " count"]
    margins: Float[npt.NDArray[np.float32], " count"]
    changes: int
    margin_sum: float

    def part(self, start: int, stop: int) -> Answers:
        """The rows from `start` to `stop`."""
        if start == 0 and stop == len(self.logits):
            return self
        changed, margins = self.changed[start:stop], self.margins[start:stop]
        changes = int(np.count_nonzero(changed)) if self.changes else 0
        return Answers(self.logits[start:stop], changed, margins, changes, _sum(margins))


@runtime_checkable
class Trial(Protocol):
    """One input under one detector."""

    def ask(self) -> Sequence[Probes]:
        """The copies it wants classified next; empty when it is done."""
        ...

    def tell(self, probes: Probes, answers: Answers) -> None:
        """Take the answers about copies that were asked for, in the order of asking."""
        ...

    def finding(self, duration_s: float = 0.0) -> Finding:
        """What can be said with the evidence so far, and how long it took."""
        ...


class SequentialTrial:
    """A test on the label changes of copies from one source, which looks after every copy.

    It is told answers as they come, in any chunks, and takes what comes before its boundary.
    """

    __slots__ = ("_boundaries", "_first_chunk", "_margin_sum", "_step", "source")

    def __init__(self, source: Source, boundaries: Boundaries, first_chunk: int) -> None:
        self.source = source
        """Where its copies come from."""
        self._boundaries = boundaries
        self._first_chunk = first_chunk
        self._step = START
        self._margin_sum = 0.0

    @property
    def wanted(self) -> int:
        """Copies wanted so far: a small first chunk, then as many as the nearest boundary is away; 0 at the end."""
        step = self._step
        if step is START:
            return min(self._first_chunk, self._boundaries.distance(step))
        return step.n + self._boundaries.distance(step) if step.stop is Stop.OPEN else 0

    def take(self, answers: Answers) -> bool:
        """Count label changes among the next copies, up to the boundary; whether it was reached."""
        before = self._step.n
        step = self._step = self._boundaries.walk(self._step, answers.changed, none=not answers.changes)
        used = step.n - before
        if used == len(answers.changed):
            self._margin_sum += answers.margin_sum
        else:
            self._margin_sum += float(np.add.reduce(answers.margins[:used], dtype=np.float64))
        return step.stop is not Stop.OPEN

    def finding(self, label: int | None, duration_s: float = 0.0) -> Finding:
        """What can be said with the evidence so far about an input of this label, and how long it took."""
        raise NotImplementedError


@runtime_checkable
class Detector(Protocol):
    """A configured detector."""

    @property
    def name(self) -> str:
        """Label in findings and metrics."""
        ...

    @property
    def stage(self) -> int:
        """Detectors of a later stage begin when those of earlier ones have their findings: cheap ones come first."""
        ...

    def open(self) -> Trial | SequentialTrial:
        """Start on one input."""
        ...


def compare(logits: Float[npt.NDArray[np.float32], "count classes"], labels: IntArray) -> Answers:
    """Answers of the guarded model, given the own label of each copy's input, (count,)."""
    rows = np.arange(len(logits))
    own = logits[rows, labels]
    others = logits.copy()
    others[rows, labels] = -np.inf
    with np.errstate(invalid="ignore"):  # infinite logits: nobody hears of those rows
        margins: Float32Array = own - others.max(axis=1)
    changed = logits.argmax(axis=1) != labels
    return Answers(logits, changed, margins, int(np.count_nonzero(changed)), _sum(margins))


def _sum(margins: Float32Array) -> float:
    """In double precision, so that how copies were cut into chunks leaves no trace in it."""
    return float(np.add.reduce(margins, dtype=np.float64))
