"""What a soaked engine is given: Poisson arrivals, of which a fifth is cancelled while they wait or are screened."""

from __future__ import annotations

import heapq
import random
import statistics
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from benchmarks.engine.subject import Submits
from guard.errors import DeadlineExceeded, Overloaded
from guard.values import Fault, FaultReason, Float32Array, Screening

CANCELLED = 0.2
"""Of all requests, while they wait or are screened."""
DEADLINE_S = 0.5
_LEAST_CHANCE = 0.25
"""That a cancellation comes in time; if it is less, fewer than a fifth can be cancelled."""
_CATCH_UP = 0.2
_FIRST_GUESS_S = 5e-3
_LATEST = 256


class Screens(Submits, Protocol):
    """What is soaked: an engine."""

    @property
    def live(self) -> int:
        """Items that are being screened."""
        ...

    @property
    def depth(self) -> int:
        """Items waiting to be admitted."""
        ...


@dataclass(frozen=True, slots=True)
class Plan:
    """How long, how much, and what counts as flat.

    Answers are waited for `patience_s` at the end. A short run is judged by a wider `flat_mb_per_h`: in it one sample
    moves the slope.
    """

    seconds: float
    rate: float
    seed: int
    sample_s: float = 1.0
    patience_s: float = 10.0
    flat_mb_per_h: float = 5.0


@dataclass
class Cancelling:
    """Requests that are under way, when which of them will be cancelled, and what became of the others."""

    running: Screens
    images: Float32Array
    plan: Plan
    rng: random.Random
    futures: list[Future[Screening]] = field(default_factory=list)
    due: list[tuple[float, int, Future[Screening]]] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=lambda: {"screened": 0, "cancelled": 0, "expired": 0})
    sent: int = 0
    refused: int = 0
    cancellations: int = 0
    in_time: int = 0
    latencies: deque[float] = field(default_factory=partial(deque, [_FIRST_GUESS_S], _LATEST))
    typical_s: float = _FIRST_GUESS_S
    """The median of the latest answers' latencies, within which cancellations come."""

    def send(self) -> None:
        """Hand in the next request, and draw whether and when it will be cancelled."""
        self.sent += 1
        try:
            future = self.running.submit(self.images[self.sent % len(self.images)], deadline_s=DEADLINE_S)
        except Overloaded:
            self.refused += 1
            return
        self.futures.append(future)
        begun = time.perf_counter()
        future.add_done_callback(partial(self._answered, begun))
        # Some are answered before: so many more are drawn that a fifth of all is cancelled in time.
        chance = max(_LEAST_CHANCE, (self.in_time + 1) / (self.cancellations - len(self.due) + 1))
        behind = CANCELLED * self.sent - self.in_time - chance * len(self.due)
        if self.rng.random() < CANCELLED / chance + _CATCH_UP * behind:
            self.cancellations += 1
            when = begun + self.rng.random() * self.typical_s
            heapq.heappush(self.due, (when, self.sent, future))

    def cancel(self, now: float) -> None:
        """Cancel what is due."""
        while self.due and self.due[0][0] <= now:
            self.in_time += heapq.heappop(self.due)[2].cancel()

    def count(self) -> None:
        """Count what is over, and let it go; look at what latency is typical now."""
        self.futures = [future for future in self.futures if not _counted(future, self.counts)]
        self.typical_s = statistics.median(self.latencies.copy())

    def finish(self) -> None:
        """Wait for what is under way, and cancel what was to be cancelled of it."""
        end = time.perf_counter() + self.plan.patience_s
        self.count()
        while self.futures and (now := time.perf_counter()) < end:
            self.cancel(now)
            time.sleep(1e-3)
            self.count()

    def _answered(self, begun: float, future: Future[Screening]) -> None:
        if not future.cancelled():
            self.latencies.append(time.perf_counter() - begun)


def _counted(future: Future[Screening], counts: dict[str, int]) -> bool:
    """Whether it is over; then it is counted, as what it became."""
    if not future.done():
        return False
    if future.cancelled():
        counts["cancelled"] += 1
    elif isinstance(future.exception(), DeadlineExceeded) or _cut_short(future.result()):
        counts["expired"] += 1
    else:
        counts["screened"] += 1
    return True


def _cut_short(screening: Screening) -> bool:
    return any(isinstance(each, Fault) and each.reason is FaultReason.DEADLINE for each in screening.findings)
