"""Replicas whose label follows a rule that the test knows."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from guard.values import ModelInfo, OutputKind


class Ruled:
    """A replica of two classes: 1 where `rule` of a batch (n, *shape) holds. Keeps the sizes of its batches."""

    def __init__(
        self, rule: Callable[[Tensor], Tensor], shape: tuple[int, ...], bounds: tuple[float, float] = (0.0, 1.0)
    ) -> None:
        self.info = ModelInfo("ruled", "x", "y", "FP32", shape, 2, bounds, OutputKind.LOGITS, "ab")
        self.preferred_batch = 10
        self.batches: list[int] = []
        self._rule = rule

    def logits(self, x: Tensor) -> Tensor:
        """Classify by the rule."""
        self.batches.append(len(x))
        ones = self._rule(x).reshape(len(x)).to(torch.float32)
        return torch.stack([1 - ones, ones], dim=1)

    def close(self) -> None:
        """Nothing to free."""
