"""Carlini and Wagner's attack, by the optimiser of their paper.

ART's has a line search in place of Adam, which ends early: on MNIST, at the budget here, it fooled an ordinary
classifier with three images of four, and with hardly any by a confidence of 20.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from guard.offline.evaluate.rebuilt import margins

_WITHIN = 0.999  # at 0 and 1 themselves the tangent has hardly any slope
_TENFOLD = 10.0


def carlini(
    model: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    confidence: float,
    searches: int,
    steps: int,
    rate: float,
    constant: float,
) -> Tensor:
    """The smallest change in L2 by which another class leads by `confidence` logits (Carlini and Wagner, 2017, VI).

    Inputs (n, *shape) lie in [0, 1], and are the tangent of what Adam moves, at `rate`, for so many `steps`. After each
    of the `searches` the weight of success against size, at first `constant`, is ten times as large where there was
    none yet, and else between the last two. Inputs that were not won are as the last search left them.
    """
    with torch.no_grad():
        labels = model(x).argmax(dim=1)
    weight = torch.full((len(x),), constant)
    low, high = torch.zeros_like(weight), torch.full_like(weight, torch.inf)
    best, least = x.clone(), torch.full((len(x),), torch.inf)
    start = torch.atanh((2 * x - 1) * _WITHIN)
    for _ in range(searches):
        point = start.clone().requires_grad_(True)
        optimiser = torch.optim.Adam([point], lr=rate)
        won = torch.zeros(len(x), dtype=torch.bool)
        for _ in range(steps):
            moved = (torch.tanh(point) + 1) / 2
            gap = margins(model(moved), labels) + confidence
            size = (moved - x).flatten(1).square().sum(dim=1)
            there = gap.detach() <= 0
            better = there & (size.detach() < least)
            best[better], least[better] = moved.detach()[better], size.detach()[better]
            won |= there
            optimiser.zero_grad()
            torch.autograd.backward((size + weight * gap.clamp_min(0)).sum())
            optimiser.step()
        best[least.isinf()] = moved.detach()[least.isinf()]
        high, low = weight.where(won, high), low.where(won, weight)
        weight = torch.where(high.isinf(), weight * _TENFOLD, (low + high) / 2)
    return best
