"""What both sides of rows 2 and 3 decide, on many more images than their time is measured on.

A rule's decision rests on the labels of an input's copies, whichever way they were made. So that many images can be
afforded, the reference's copies are made and classified in batches here, and kept: its rules, unchanged, are shown one
after the other, and all of them the same ones. Guard's engine runs as it does.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.engine.bench import Bench, share
from benchmarks.engine.subject import SIGMA, engine, screen
from benchmarks.references.mutation_testing import Decision, Sprt
from guard.profile import spec
from guard.values import Evidence, Float32Array

_BATCH = 64
_NOTHING = torch.zeros(1)
"""In place of an input whose copies are there already."""

Rule = Callable[..., Decision]


class Copies:
    """The model's answers to one input's noisy copies, made in batches as far as they are asked for."""

    def __init__(self, module: nn.Module, x: Tensor, generator: torch.Generator) -> None:
        self._module, self._x, self._generator = module, x, generator
        self._answers: list[Tensor] = []
        with torch.no_grad():
            self.label = int(module(x[None]).argmax())

    def again(self) -> Callable[[Tensor], Tensor]:
        """In place of a model: it answers about the first copy, then about the second, whatever it is given."""
        numbers = itertools.count()
        return lambda _: self._answer(next(numbers))

    def _answer(self, number: int) -> Tensor:
        if number == len(self._answers):
            noise = torch.randn((_BATCH, *self._x.shape), generator=self._generator)
            with torch.no_grad():
                self._answers.extend(self._module(self._x + SIGMA * noise).split(1))
        return self._answers[number]


class Judged:
    """Images that both sides judge: benign ones and attacked ones, as many as the bench's size says."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        count = bench.size.judged
        chosen = [bench.subject.images[:count], bench.subject.attacked[:count]]
        self._benign = len(chosen[0])
        self._images: list[Float32Array] = list(np.concatenate(chosen))
        self._copies = [
            Copies(bench.subject.module, torch.from_numpy(image), bench.generator()) for image in self._images
        ]

    def compare(self, rule: Rule, test: Sprt, design: spec.SensitivitySpec) -> str:
        """How many each side calls adversarial, with 95 % intervals."""
        sides = {
            "reference": [self._decide(rule, test, copies, design.cap) for copies in self._copies],
            "Guard": self._guards(test, design),
        }
        return "flagged: " + "; ".join(
            f"{side} {share(flags[: self._benign])} benign and {share(flags[self._benign :])} attacked"
            for side, flags in sides.items()
        )

    def _decide(self, rule: Rule, test: Sprt, copies: Copies, cap: int) -> bool:
        decide = partial(rule, copies.again(), _NOTHING, copies.label, test)
        return decide(sigma=SIGMA, generator=self._bench.generator(), cap=cap).adversarial

    def _guards(self, test: Sprt, design: spec.SensitivitySpec) -> list[bool]:
        with engine(self._bench.subject, (design,)) as running:
            done = screen(running, self._images)
        found: Sequence[object] = [screening.findings[0] for screening in done]
        return [isinstance(f, Evidence) and f.details["log_likelihood_ratio"] >= test.accept for f in found]
