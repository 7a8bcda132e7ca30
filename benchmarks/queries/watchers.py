"""The two memories behind one question: does this query of this client look like part of an attack?"""

from __future__ import annotations

from typing import Protocol

from benchmarks.references.blacklight import Blacklight
from guard.queries.fingerprint import Fingerprinter
from guard.queries.memory import Query, QueryMemory, Radii
from guard.queries.watch import suspicious
from guard.values import Float32Array

DAY_S = 24 * 3600.0
CAPACITY = 65_536
_SECRET = bytes(range(32))


class Watcher(Protocol):
    """Remembers what it is shown."""

    def flags(self, x: Float32Array, client: str, now_s: float) -> bool:
        """Whether a query looks like part of an attack."""
        ...


class GuardWatcher:
    """Guard's memory."""

    def __init__(self, shape: tuple[int, ...], *, limit: int, radii: Radii) -> None:
        self._limit = limit
        self._fingerprinter = Fingerprinter(_SECRET, "model", shape, 1.0)
        self._memory = QueryMemory(capacity=CAPACITY, keep_s=DAY_S, radii=radii)

    def flags(self, x: Float32Array, client: str, now_s: float) -> bool:
        """Whether a query looks like part of an attack."""
        prints, flat = self._fingerprinter.prints(x[None])
        if flat[0]:
            return False
        query = Query(prints[0], self._fingerprinter.exact(x), self._fingerprinter.client(client))
        return suspicious(self._memory.look(query, now_s), self._limit)


class BlacklightWatcher:
    """Blacklight's, which knows neither clients nor time."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._store = Blacklight(shape)

    def flags(self, x: Float32Array, client: str, now_s: float) -> bool:  # noqa: ARG002 - the published method ignores both
        """Whether a query looks like part of an attack."""
        return self._store.look(x)
