"""Certification by randomised smoothing with a fixed number of noisy copies.

Cohen, Rosenfeld and Kolter, "Certified Adversarial Robustness via Randomized Smoothing" (ICML 2019), algorithm Certify:
choose the likeliest class from n0 copies, bound its probability from below from n others (Clopper and Pearson, one
sided), and report sigma * Phi^-1(bound), or abstain where the bound is below one half.

How the authors' own code runs: one image at a time, in batches of 1000 (the last one smaller), each the image repeated
and noise of the same shape. It counts classes in a Python loop over the predictions; here they are counted at once,
which is in the reference's favour.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from scipy import stats
from torch import Tensor

N0: Final = 100
BATCH: Final = 1000
ALPHA: Final = 0.001
_HALF = 0.5


@dataclass(frozen=True, slots=True)
class Certificate:
    """The smoothed model's label is `label` everywhere within `radius` (L2); None where it abstains."""

    label: int | None
    radius: float
    evaluations: int


@torch.no_grad()
def certify(
    model: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    sigma: float,
    n: int,
    generator: torch.Generator,
    n0: int = N0,
    alpha: float = ALPHA,
    batch: int = BATCH,
) -> Certificate:
    """Certify one input; the certificate is wrong with probability at most alpha."""
    label = int(_counts(model, x, n0, sigma=sigma, batch=batch, generator=generator).argmax().item())
    count = int(_counts(model, x, n, sigma=sigma, batch=batch, generator=generator)[label].item())
    lower = lower_confidence_bound(count, n, alpha)
    if lower < _HALF:
        return Certificate(None, 0.0, n0 + n)
    return Certificate(label, sigma * float(stats.norm.ppf(lower)), n0 + n)


def lower_confidence_bound(count: int, n: int, alpha: float) -> float:
    """Lower bound of a binomial proportion holding with probability >= 1 - alpha (Clopper and Pearson, 1934)."""
    return 0.0 if count == 0 else float(stats.beta.ppf(alpha, count, n - count + 1))


def _counts(
    model: Callable[[Tensor], Tensor], x: Tensor, n: int, *, sigma: float, batch: int, generator: torch.Generator
) -> Tensor:
    """How many of n noisy copies the model puts in each class."""
    counts = torch.zeros(0, dtype=torch.int64)
    left = n
    while left > 0:
        size = min(batch, left)
        left -= size
        copies = x.repeat((size, *(1 for _ in x.shape)))
        noise = torch.randn(copies.shape, generator=generator, device=x.device) * sigma
        logits = model(copies + noise)
        here = torch.bincount(logits.argmax(dim=1).cpu(), minlength=logits.shape[1])
        counts = here if len(counts) == 0 else counts + here
    return counts
