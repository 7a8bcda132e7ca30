"""Threads that clients take in turns: a slice of one's work, then a slice of another's."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Generator
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, TypeVar

_Made = TypeVar("_Made")
Steps: TypeAlias = Generator[None, None, _Made]
"""Work that can wait wherever it yields, and returns what it made."""

SLICE_S: Final = 0.01
"""After so much time another client's turn comes, as soon as the work can wait."""


@dataclass(frozen=True, slots=True)
class _Job:
    steps: Steps[Any]
    future: Future[Any]
    client: str


class Turns:
    """Does work on a few threads. A client's own is done in its order; close it to end the threads."""

    def __init__(self, threads: int, name: str, *, slice_s: float = SLICE_S) -> None:
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._slice_s = slice_s
        self._waiting: OrderedDict[str, deque[_Job]] = OrderedDict()
        self._lock = threading.Lock()

    def submit(self, steps: Steps[_Made], client: str) -> Future[_Made]:
        """Have work done for a client. The future may be cancelled, and then the rest is not done."""
        job = _Job(steps, Future(), client)
        with self._lock:
            self._waiting.setdefault(client, deque()).append(job)
        self._threads.submit(self._turn)
        return job.future

    def close(self) -> None:
        """End the threads; what was not done is cancelled."""
        self._threads.shutdown(cancel_futures=True)
        for jobs in self._waiting.values():
            for job in jobs:
                job.future.cancel()

    def _turn(self) -> None:
        """Work on the oldest job of the client whose turn it is. There is one of these for each job that waits."""
        job = self._next()
        ends_s = time.monotonic() + self._slice_s
        with suppress(InvalidStateError):  # it was cancelled meanwhile
            try:
                while not job.future.cancelled():
                    next(job.steps)
                    if time.monotonic() >= ends_s:
                        self._put_back(job)
                        return
            except StopIteration as end:
                job.future.set_result(end.value)
            except BaseException as error:  # noqa: BLE001 - it is whoever's who waits for it
                job.future.set_exception(error)

    def _next(self) -> _Job:
        with self._lock:
            client, jobs = next(iter(self._waiting.items()))
            job = jobs.popleft()
            if jobs:
                self._waiting.move_to_end(client)
            else:
                del self._waiting[client]
            return job

    def _put_back(self, job: _Job) -> None:
        with self._lock:
            self._waiting.setdefault(job.client, deque()).appendleft(job)
        with suppress(RuntimeError):  # the threads are ending, and the job is cancelled
            self._threads.submit(self._turn)


def at_once(steps: Steps[_Made]) -> _Made:
    """Do work here and now."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            made: _Made = end.value
            return made
