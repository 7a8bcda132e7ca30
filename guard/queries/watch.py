"""Looks every input up in the memory of queries, on a thread of its own, beside the screening."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from guard.queries.fingerprint import Fingerprinter
from guard.queries.memory import Alike, Query, QueryMemory
from guard.values import Float32Array, Probing

NAME = "queries"
"""The detector's name in findings and metrics."""

_EVERYONE = 1.5
"""Different people send similar images more often than one of them does, so more of these make an attack."""


def suspicious(alike: Alike, limit: int) -> bool:
    """Whether as many distinct near-duplicates came before as make an attack: `limit` of one client, or half more.

    Values that were sent before tell nobody anything new, so what other clients sent is not held against them.
    """
    return alike.client >= limit or (alike.everyone >= math.ceil(limit * _EVERYONE) and not alike.known)


class QueryWatch:
    """The memory of one model's queries. Close it, or its thread stays."""

    def __init__(
        self,
        fingerprinter: Fingerprinter,
        memory: QueryMemory,
        *,
        limit: int,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fingerprinter, self._memory = fingerprinter, memory
        self._limit = limit
        self._now_s = now_s
        self._listener: Callable[[Query], None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="guard-queries")

    def look(self, inputs: Float32Array, client: str) -> Future[tuple[Probing, ...]]:
        """What was sent before that resembles each item (n, *shape). Items of a batch come one after the other."""
        return self._thread.submit(self._look, inputs, client)

    def tell(self, listener: Callable[[Query], None]) -> None:
        """Call `listener` with each query that is new, on the watch's thread.

        What a client repeats is not new: it takes no room in this memory, and should take none in others.
        """
        self._listener = listener

    def learn(self, queries: Sequence[tuple[Query, float]]) -> Future[None]:
        """Remember what others saw, each so many seconds ago. Requests wait for no more than these."""
        return self._thread.submit(self._learn, queries)

    def __len__(self) -> int:
        """How many queries are remembered."""
        return len(self._memory)

    def close(self) -> None:
        """Stop the thread."""
        self._thread.shutdown(cancel_futures=True)

    def _look(self, inputs: Float32Array, client: str) -> tuple[Probing, ...]:
        started_s = time.perf_counter()
        prints, flat = self._fingerprinter.prints(inputs)
        who, now_s = self._fingerprinter.client(client), self._now_s()
        found = []
        for item, fingerprint, nothing in zip(inputs, prints, flat, strict=True):
            alike = Alike(client=0, everyone=0, known=False)
            if not nothing:
                query = Query(fingerprint, self._fingerprinter.exact(item), who)
                alike = self._memory.look(query, now_s)
                if self._listener is not None and not alike.repeated:
                    self._listener(query)
            duration_s = time.perf_counter() - started_s
            found.append(
                Probing(
                    NAME,
                    of_client=alike.client,
                    of_everyone=alike.everyone,
                    suspicious=suspicious(alike, self._limit),
                    group="" if nothing else f"{alike.group:016x}",
                    duration_s=duration_s,
                )
            )
        return tuple(found)

    def _learn(self, queries: Sequence[tuple[Query, float]]) -> None:
        now_s = self._now_s()
        for query, age_s in queries:
            self._memory.learn(query, now_s - age_s, now_s)
