"""Which batch a replica likes best, found by trying: short, at start-up, before anything is served."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from torch import Tensor

from guard.model.backend import Backend, batches_for

BUCKETS: Final = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256)
_GOOD_ENOUGH = 1.05
"""Of the best time a copy: a smaller batch makes shorter turns, and shorter waits for what arrives meanwhile."""
_SHORTEST_S = 4e-3
"""A turn costs the engine a tenth or two of a millisecond whatever is in it: a few percent of this."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """The batch chosen, and the seconds that one evaluation takes at it."""

    batch: int
    evaluation_s: float


def best_batch(backend: Backend, *, budget_s: float = 0.5, clock: Callable[[], float] = time.perf_counter) -> Sweep:
    """The smallest batch that wastes no time, a copy or in all, of those that could be tried in `budget_s`.

    Raises:
        BackendError: the replica fails.
    """
    times: dict[int, float] = {}
    largest = backend.info.max_batch or BUCKETS[-1]
    buckets = list(dict.fromkeys(min(bucket, largest) for bucket in BUCKETS))
    (copies,) = batches_for(backend, buckets[-1])
    _classify(backend, copies[: buckets[0]])  # on a GPU the first call of all may take seconds: libraries are loaded
    deadline = clock() + budget_s
    for bucket in buckets:
        _classify(backend, copies[:bucket])  # the first call of a size allocates
        tries = []
        for _ in range(5):
            started = clock()
            _classify(backend, copies[:bucket])
            tries.append(clock() - started)
            if clock() >= deadline:
                break
        times[bucket] = min(tries) / bucket
        if clock() >= deadline:
            break
    least = min(times.values())
    good = [bucket for bucket, seconds in times.items() if seconds <= _GOOD_ENOUGH * least]
    batch = next((bucket for bucket in good if bucket * times[bucket] >= _SHORTEST_S), good[-1])
    return Sweep(batch, times[batch])


def _classify(backend: Backend, copies: Tensor) -> None:
    """Classify copies: a device is done when its answer can be read."""
    backend.logits(copies).cpu()
