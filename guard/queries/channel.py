"""What one model's memory of queries tells those of other replicas, and hears from them."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from itertools import islice
from typing import Final, Protocol, TypeAlias

from guard.queries.memory import Query
from guard.queries.record import Record, Seal
from guard.sharing import Sharing, StoreFailure

BATCH: Final = 256
"""Queries that go one way in one exchange with the store, at most."""

MOST_WAITING: Final = 4096
"""Queries that wait for the store, at most: some two megabytes."""

_AT_ONCE = 16
"""Queries that are learnt before the memory looks at requests again: two milliseconds of a full one."""

Learn: TypeAlias = Callable[[Sequence[tuple[Query, float]]], Future[None]]
"""Remembers queries, each with how many seconds ago it was seen."""


class Counts(Protocol):
    """What is counted of sharing."""

    def queries_shared(self, model: str, what: Sharing, number: int) -> None:
        """So many queries of a model were sent, dropped, received, or not understood."""

    def query_store_failed(self, why: StoreFailure) -> None:
        """An exchange with the store failed."""


class Channel:
    """Both directions of one model. `put` is for any thread, all else for the store's.

    A batch stays until the store has taken it, so after a failure it may be sent twice; memories don't mind.
    """

    def __init__(
        self,
        model: str,
        seal: Seal,
        learn: Learn,
        counts: Counts,
        *,
        origin: bytes,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.stream = seal.stream
        self._model, self._seal, self._learn, self._counts = model, seal, learn, counts
        self._origin = origin
        self._now_s = now_s
        self._lock = threading.Lock()
        self._waiting: deque[tuple[Query, float]] = deque()
        self._batch: list[tuple[Query, float]] = []

    def put(self, query: Query) -> None:
        """Let the others know of a query, soon. Where too many wait, the oldest is dropped."""
        query = replace(query, print=query.print.copy())  # it is a view, which would keep its whole batch
        with self._lock:
            self._waiting.append((query, self._now_s()))
            full = len(self._waiting) > MOST_WAITING
            if full:
                self._waiting.popleft()
        if full:
            self._counts.queries_shared(self._model, Sharing.DROPPED, 1)

    def batch(self) -> list[bytes]:
        """Records to send: those of last time, if they were not `sent`, or the next ones."""
        if not self._batch:
            with self._lock:
                self._batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
        now_s = self._now_s()
        return [self._seal.write(Record(query, self._origin, now_s - seen_s)) for query, seen_s in self._batch]

    def sent(self) -> int:
        """The store has the batch: how many records it held."""
        number, self._batch = len(self._batch), []
        self._counts.queries_shared(self._model, Sharing.SENT, number)
        return number

    def receive(self, contents: Iterable[tuple[bytes, float]]) -> None:
        """Learn what others put into records; each comes with how many seconds ago the store got it."""
        learnt: list[tuple[Query, float]] = []
        unreadable = 0
        for content, age_s in contents:
            record = self._seal.read(content)
            if record is None:
                unreadable += 1
            elif record.origin != self._origin:
                learnt.append((record.query, record.age_s + age_s))
        self._counts.queries_shared(self._model, Sharing.UNREADABLE, unreadable)
        self._counts.queries_shared(self._model, Sharing.RECEIVED, len(learnt))
        rest = iter(learnt)
        while some := list(islice(rest, _AT_ONCE)):
            self._learn(some).result()
