"""Which batch is chosen, with replicas whose time a batch is known."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from guard.model.sweep import BUCKETS, best_batch
from guard.values import ModelInfo, OutputKind


class Timed:
    """A replica that takes as long for a batch as it is told, by a clock of its own."""

    def __init__(self, seconds: Callable[[int], float], max_batch: int | None = None) -> None:
        self.info = ModelInfo("m", "x", "y", "FP32", (3,), 3, (0.0, 1.0), OutputKind.LOGITS, "ab", max_batch=max_batch)
        self.preferred_batch = 1
        self.tried: list[int] = []
        self.now = 0.0
        self._seconds = seconds

    def logits(self, x: Tensor) -> Tensor:
        """Take as long as told."""
        self.tried.append(len(x))
        self.now += self._seconds(len(x))
        return torch.zeros(len(x), self.info.classes)

    def close(self) -> None:
        """Nothing to free."""

    def clock(self) -> float:
        """The time."""
        return self.now


@pytest.mark.parametrize(
    ("seconds", "batch"),
    [
        pytest.param(lambda n: 0.002 + 0.0001 * n, 192, id="a-fixed-cost-wants-large-batches"),
        pytest.param(lambda n: 0.001 * n, 8, id="slow-copies-want-short-turns"),
        pytest.param(lambda n: 0.0001 * n, 48, id="fast-copies-want-turns-of-four-milliseconds"),
        pytest.param(lambda n: 0.001 * n * (1 if n <= 16 else 2), 8, id="large-batches-may-be-slower"),
    ],
)
def test_chosen(seconds: Callable[[int], float], batch: int) -> None:
    """The smallest batch near the least time a copy, if its turn is long enough to pay for itself."""
    replica = Timed(seconds)
    found = best_batch(replica, budget_s=60.0, clock=replica.clock)
    assert found.batch == batch
    assert found.evaluation_s == pytest.approx(seconds(batch) / batch)


def test_never_beyond_what_the_model_takes() -> None:
    """A model that takes twenty at once is never sent more, and twenty is tried."""
    replica = Timed(lambda n: 0.001 + 0.00001 * n, max_batch=20)
    assert best_batch(replica, budget_s=60.0, clock=replica.clock).batch == 20
    assert max(replica.tried) == 20


def test_slow_replica() -> None:
    """Past the budget no further batch is tried, and the best of those that were is taken."""
    replica = Timed(lambda n: 0.01 * n)
    assert best_batch(replica, budget_s=0.05, clock=replica.clock).batch == BUCKETS[0]
    assert set(replica.tried) == {BUCKETS[0]}
