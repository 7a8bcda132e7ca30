"""The door: a bounded queue that is fair to clients, and refuses at once what it can't serve in time."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass

from guard.errors import Overloaded
from guard.plural import counted
from guard.values import Float32Array, Screening

_MEMORY = 0.05
"""Weight of the newest measurement in a running mean."""


@dataclass(frozen=True, slots=True)
class Job:
    """An item that was handed in. `deadline` is on the monotonic clock; `decision_id` is that of its request."""

    x: Float32Array
    deadline: float | None
    future: Future[Screening]
    decision_id: str
    client: str

    @property
    def expired(self) -> bool:
        """Whether its time ran out."""
        return self.deadline is not None and time.monotonic() >= self.deadline


class Pace:
    """What an item costs, as measured: evaluations, and seconds for each. Zero before the first was."""

    def __init__(self) -> None:
        self._evaluations = 0.0
        self._evaluation_s = 0.0
        self.busy_s = 0.0
        """Seconds that the engine had evaluations under way, since its start."""

    @property
    def evaluation_s(self) -> float:
        """Seconds of the engine's time for one evaluation."""
        return self._evaluation_s

    @property
    def item_s(self) -> float:
        """Expected seconds of the engine's time for one item."""
        return self._evaluations * self._evaluation_s

    def evaluated(self, copies: int, seconds: float) -> None:
        """Take note of a batch."""
        self.busy_s += seconds
        self._evaluation_s = _mean(self._evaluation_s, seconds / copies)

    def finished(self, evaluations: int) -> None:
        """Take note of an item."""
        self._evaluations = _mean(self._evaluations, float(evaluations))

    def expired(self, evaluations: int) -> None:
        """Take note of an item that would have cost more, had there been time: or only cheap ones would be known."""
        if evaluations > self._evaluations:
            self.finished(evaluations)


def _mean(mean: float, value: float) -> float:
    return value if mean == 0 else mean + _MEMORY * (value - mean)


class Door:
    """A queue of at most `room` jobs. Clients take turns; one that fills it makes room for others with its newest."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._queues: OrderedDict[str, deque[Job]] = OrderedDict()
        self._count = 0
        self._changed = threading.Condition()

    def __len__(self) -> int:
        """Jobs waiting."""
        return self._count

    def ahead(self, client: str) -> int:
        """Jobs whose turn comes before that of a client's next one."""
        with self._changed:
            own = len(self._queues.get(client, ()))
            return own + sum(min(len(jobs), own + 1) for name, jobs in self._queues.items() if name != client)

    def enter(self, job: Job) -> Job | None:
        """Let a job in. Returns the job that had to leave for it, if any.

        Raises:
            Overloaded: there is no room, and this client has as much of it as any.
        """
        with self._changed:
            evicted = self._make_room(job.client) if self._count >= self._room else None
            self._queues.setdefault(job.client, deque()).append(job)
            self._count += 1
            self._changed.notify()
            return evicted

    def next(self, timeout_s: float) -> Job | None:
        """The oldest job of the client whose turn it is; None if there is none for `timeout_s` seconds."""
        with self._changed:
            if not self._count and (timeout_s == 0 or not self._changed.wait_for(lambda: self._count, timeout_s)):
                return None
            client, jobs = next(iter(self._queues.items()))
            job = jobs.popleft()
            self._count -= 1
            if jobs:
                self._queues.move_to_end(client)
            else:
                del self._queues[client]
            return job

    def drain(self) -> Iterator[Job]:
        """Every job, removed."""
        while (job := self.next(0.0)) is not None:
            yield job

    def _make_room(self, client: str) -> Job:
        largest = max(self._queues, key=lambda name: len(self._queues[name]))
        jobs = self._queues[largest]
        if len(jobs) <= len(self._queues.get(client, ())) + 1:
            raise Overloaded(f"{counted(self._count, 'item is', 'items are')} waiting to be screened already")
        self._count -= 1
        return jobs.pop()
