"""Sequential certification at a given radius, with a confidence sequence.

Voracek, "Treatment of Statistical Estimation Problems in Randomized Smoothing for Adversarial Robustness" (NeurIPS
2024). Is the class's probability under noise above or below Phi(radius / sigma)? Draw copies until a confidence
sequence excludes that threshold. Here that is algorithm 2 (`betting_boundaries`): the wealth of a gambler who bets the
Krichevsky-Trofimov estimate; by Ville's inequality it passes 1 / alpha with probability at most alpha. The walk over
(t, count) is that of appendix F. The paper's other sequence, of Clopper-Pearson bounds at spaced looks, is left out: at
radii of sigma and of 2 sigma it takes more copies on average, up to half as many again.

How the author's own code runs: boundaries are tables of counts made once for a threshold, up to 131,100 copies, and
each answer moves its input's counts in a Python loop over the batch. Batches of 100 are mixed: each place in the batch
belongs to one input until that is decided, then to the undecided input that has the fewest places (`certify_pool`; the
paper says fewest copies, the code counts places).

Sure: the sequence, its constant, the direction of both errors. Where paper and code differ: the code's gambler wins at
1 / (2 alpha), which Ville's inequality covers only for a chance of error of 2 alpha over both directions; here it is
the paper's 1 / alpha, and 2 * alpha given as alpha makes the code's table. The code throws away one fresh answer for
some places that change hands, which is not repeated here. Its example script inverts the radius with the wrong function
(Phi^-1 for Phi); here it is Phi.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from guard.values import IntArray

HORIZON: Final = 131_100
BATCH: Final = 100


class Answer(Enum):
    """Whether the radius holds; undecided at the horizon."""

    CERTIFIED = "certified"
    REFUTED = "refuted"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The answer for one input, the copies that led to it, and the evaluations spent, surplus ones included."""

    answer: Answer
    copies: int
    evaluations: int


@dataclass(frozen=True, slots=True)
class Boundaries:
    """After t copies: certified once `upper[t]` of them agree with the label, refuted once only `lower[t]` do."""

    lower: tuple[int, ...]
    upper: tuple[int, ...]

    def answer(self, agreeing: int, copies: int) -> Answer | None:
        """The answer after so many copies, or None to go on."""
        if copies >= len(self.upper):
            return Answer.UNDECIDED
        if agreeing >= self.upper[copies]:
            return Answer.CERTIFIED
        return Answer.REFUTED if agreeing <= self.lower[copies] else None


def threshold_of(radius: float, sigma: float) -> float:
    """The class probability at and above which an L2 radius is certified (Cohen et al., 2019)."""
    return float(stats.norm.cdf(radius / sigma))


def betting_boundaries(threshold: float, alpha: float, horizon: int = HORIZON) -> Boundaries:
    """Tables of algorithm 2; the chance of a wrong answer is at most alpha."""
    upper, others = _betting_upper(threshold, alpha, horizon), _betting_upper(1 - threshold, alpha, horizon)
    return Boundaries(tuple((np.arange(horizon) - others).tolist()), tuple(upper.tolist()))


@torch.no_grad()
def certify_pool(
    model: Callable[[Tensor], Tensor],
    inputs: Tensor,
    labels: Sequence[int],
    boundaries: Boundaries,
    *,
    sigma: float,
    generator: torch.Generator,
    batch: int = BATCH,
) -> list[Outcome]:
    """Decide all inputs (n, *dims) in mixed batches. An input's evaluations are those in its own places."""
    places = [0] * len(inputs)
    agreeing, copies, spent = list(places), list(places), list(places)
    answers: dict[int, Answer] = {}

    def next_input() -> int:
        chosen = min((i for i in range(len(inputs)) if i not in answers), key=places.__getitem__, default=-1)
        places[chosen] += 1
        return chosen

    owners = [next_input() for _ in range(batch)]
    rows = inputs[owners]
    while len(answers) < len(inputs):
        noise = torch.randn(rows.shape, generator=generator, device=rows.device) * sigma
        for owner, prediction in zip(owners, model(rows + noise).argmax(dim=1).tolist(), strict=True):
            spent[owner] += 1
            if owner not in answers:
                copies[owner] += 1
                agreeing[owner] += prediction == labels[owner]
                answer = boundaries.answer(agreeing[owner], copies[owner])
                if answer is not None:
                    answers[owner] = answer
        if len(answers) < len(inputs):
            for place, owner in enumerate(owners):
                if owner in answers:
                    owners[place] = next_input()
                    rows[place] = inputs[owners[place]]
    return [Outcome(answers[i], copies[i], spent[i]) for i in range(len(inputs))]


def _betting_upper(p: float, alpha: float, horizon: int) -> IntArray:
    """For each t the least count above p t at which the wealth reaches 1 / alpha; t + 1 where none does."""
    upper = np.ones(horizon, dtype=np.int64)
    count = 0
    for t in range(1, horizon):
        while count <= t and (count < p * t or _log_wealth(count, t, p) < -math.log(alpha)):
            count += 1
        upper[t] = count
    return upper


def _log_wealth(count: int, t: int, p: float) -> float:
    """Of a bet on the Krichevsky-Trofimov estimate against odds of p: a Beta(1/2, 1/2) mixture's likelihood ratio."""
    mixture = math.lgamma(count + 0.5) + math.lgamma(t - count + 0.5) - math.lgamma(t + 1) - math.log(math.pi)
    return mixture - count * math.log(p) - (t - count) * math.log(1 - p)
