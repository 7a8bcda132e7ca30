"""What the rows have in common: images in turn, noise for the references, and one evaluation measured beside them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Final

import torch

from benchmarks.engine.clock import Cost, Ratio, ratio
from benchmarks.engine.subject import SIGMA, Subject, evaluation_s
from benchmarks.engine.table import Better, Row
from guard.model.onnx import OnnxBackend
from guard.profile import spec
from guard.stats import clopper_pearson_interval
from guard.values import Float32Array

GAUSSIAN: Final = spec.Gaussian(sigma=SIGMA)
SENSITIVITY: Final = spec.SensitivitySpec(mutation=GAUSSIAN, p0=0.02, p1=0.2)
_BESIDE_S = 0.02


@dataclass(frozen=True, slots=True)
class Size:
    """How much work a model is given: images a round for the engine, for slow references, and rounds.

    `judged` are the benign and as many attacked images whose error rates are counted, apart from the rounds.
    """

    engine_images: int
    slow_images: int
    rounds: int
    judged: int


SIZES: Final = {"LeNet-5": Size(300, 10, 7, 150), "ResNet-20": Size(16, 6, 5, 50)}


@dataclass
class Bench:
    """One model's rows."""

    subject: Subject
    size: Size
    seed: int
    _turn: Iterator[int] = field(default_factory=itertools.count)

    @cached_property
    def _replica(self) -> OnnxBackend:
        return self.subject.replica()

    def close(self) -> None:
        """Close the replica whose evaluations are measured beside the rows."""
        self._replica.close()

    def images(self, count: int, *, attacked_share: float = 0.0) -> list[Float32Array]:
        """The next images in turn, benign ones first."""
        start = next(self._turn) * count
        attacked = round(count * attacked_share)
        benign = [self.subject.images[(start + i) % len(self.subject.images)] for i in range(count - attacked)]
        return benign + [self.subject.attacked[(start + i) % len(self.subject.attacked)] for i in range(attacked)]

    def generator(self) -> torch.Generator:
        """The next generator of noise."""
        return torch.Generator().manual_seed(self.seed + next(self._turn))

    def evaluation_s(self, evaluations: int | None = None) -> float:
        """Seconds that one evaluation takes in the best batch, over about so many."""
        at_least = evaluations or int(_BESIDE_S / self.subject.evaluation_s)
        return evaluation_s(self.subject, self._replica, max(1, at_least // self.subject.best))

    def ratio(self, numerator: Cost, denominator: Cost, *, beside: Cost | None = None, in_turns: bool = True) -> Ratio:
        """The ratio of the rounds' sums if the numerator goes first, else the median of theirs; beside it `beside`."""
        beside = beside or partial(self.evaluation_s, None)
        return ratio(numerator, denominator, self.size.rounds, beside=beside, in_turns=in_turns, pooled=not in_turns)

    def row(
        self,
        number: int,
        compare: str,
        target: float,
        found: Ratio,
        detail: str,
        *,
        spent: float | None = None,
        ceiling: float | None = None,
    ) -> Row:
        """A row; `spent` are Guard's evaluations for a request, of which one was measured beside it in every round.

        They give the ceiling, where none is given.
        """
        if spent is not None:
            ceiling = found.numerator / (spent * found.beside)
        better: Better = "at most" if number == 1 else "at least"
        return Row(
            number, compare, self.subject.name, found.value, found.low, found.high, target, better, detail, ceiling
        )


def share(flags: Sequence[bool]) -> str:
    """A count with its 95 % interval."""
    low, high = clopper_pearson_interval(sum(flags), len(flags))
    return f"{sum(flags)} of {len(flags)} [{low:.0%}, {high:.0%}]"
