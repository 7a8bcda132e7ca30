"""Mutation testing: is an input's label unusually easy to change? One noisy copy at a time, under Wald's test.

Wang, Dong, Sun, Wang and Zhang, "Adversarial Sample Detection for Deep Neural Network through Model Mutation Testing"
(ICSE 2019), with the mutation of inputs of the same group's "Detecting Adversarial Samples of Deep Neural Networks
through Model Mutation Testing" (arXiv 1805.05010, 2018), here Gaussian noise. The test is Wald's sequential
probability ratio test of a label-change rate of theta + delta against theta - delta, delta being a share of theta.

How the authors' own code runs: a loop that makes one copy, classifies a batch of one, and updates two counts. The
public model-mutation detector (`detect/detector.py`) looks at its boundaries only when a label has changed; since a
merge of 2020 it also computes the ratio before that change is counted, where the version of 2019 counted first. At the
cap of 500 it answers "normal", so an input whose label never changes always costs the cap. Its input-mutation
detector (`input_detect/detection.py`) does look at both boundaries after every copy, but sums a ratio that is
cumulative already and counts each copy twice. Hence the two readings here: `as_published`, and `wald_every_copy`,
which is what the paper says and the fair thing to compare with.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

CAP: Final = 500


@dataclass(frozen=True, slots=True)
class Sprt:
    """Wald's test of a label-change rate: `theta` times 1 - `indifference` against `theta` times 1 + `indifference`."""

    theta: float
    indifference: float = 0.1
    alpha: float = 0.05
    beta: float = 0.05

    @property
    def p0(self) -> float:
        """A rate that must rarely be called adversarial."""
        return self.theta * (1 - self.indifference)

    @property
    def p1(self) -> float:
        """A rate that must rarely be called normal."""
        return self.theta * (1 + self.indifference)

    @property
    def accept(self) -> float:
        """At this log-likelihood ratio the input is adversarial."""
        return math.log((1 - self.beta) / self.alpha)

    @property
    def deny(self) -> float:
        """At this log-likelihood ratio the input is normal."""
        return math.log(self.beta / (1 - self.alpha))

    def ratio(self, changes: int, copies: int) -> float:
        """Log-likelihood ratio of p1 against p0."""
        return changes * math.log(self.p1 / self.p0) + (copies - changes) * math.log((1 - self.p1) / (1 - self.p0))


@dataclass(frozen=True, slots=True)
class Decision:
    """What the test made of one input; at the cap it is undecided, and called normal."""

    adversarial: bool
    decided: bool
    changes: int
    evaluations: int


@torch.no_grad()
def as_published(
    model: Callable[[Tensor], Tensor],
    x: Tensor,
    label: int,
    test: Sprt,
    *,
    sigma: float,
    generator: torch.Generator,
    cap: int = CAP,
) -> Decision:
    """The public code's reading: look at the boundaries only on a label change, and before it is counted."""
    accept, deny = test.accept, test.deny
    changes = 0
    for copies in range(1, cap + 1):
        changed = _label_of_a_copy(model, x, sigma, generator) != label
        ratio = test.ratio(changes, copies)
        if changed:
            changes += 1
            if ratio >= accept or ratio <= deny:
                return Decision(ratio >= accept, decided=True, changes=changes, evaluations=copies)
    return Decision(adversarial=False, decided=False, changes=changes, evaluations=cap)


@torch.no_grad()
def wald_every_copy(
    model: Callable[[Tensor], Tensor],
    x: Tensor,
    label: int,
    test: Sprt,
    *,
    sigma: float,
    generator: torch.Generator,
    cap: int | None = None,
) -> Decision:
    """Wald's reading: look at both boundaries after every copy, without a cap unless one is given."""
    accept, deny = test.accept, test.deny
    changes = copies = 0
    while cap is None or copies < cap:
        copies += 1
        changes += _label_of_a_copy(model, x, sigma, generator) != label
        ratio = test.ratio(changes, copies)
        if ratio >= accept or ratio <= deny:
            return Decision(ratio >= accept, decided=True, changes=changes, evaluations=copies)
    return Decision(adversarial=False, decided=False, changes=changes, evaluations=copies)


def _label_of_a_copy(model: Callable[[Tensor], Tensor], x: Tensor, sigma: float, generator: torch.Generator) -> int:
    copy = x[None] + sigma * torch.randn((1, *x.shape), generator=generator, device=x.device)
    return int(model(copy).argmax().item())
