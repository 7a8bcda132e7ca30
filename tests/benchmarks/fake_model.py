"""A model that looks at one number of its input, so that its label-change rate under noise is known."""

from __future__ import annotations

import torch
from scipy import stats
from torch import Tensor, nn

ZERO = torch.zeros(1)


class Flips(nn.Module):
    """Says 0 of zero, and 1 of a share `rate` of its copies under noise of sigma 1."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.edge = float(stats.norm.isf(rate))
        self.batches: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 1) to (batch, 2)."""
        self.batches.append(len(x))
        return torch.cat([self.edge - x, x - self.edge], dim=1)


def seeded(seed: int = 0) -> torch.Generator:
    """A generator of noise."""
    return torch.Generator().manual_seed(seed)
