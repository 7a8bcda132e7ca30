"""How many clients are behind what is detected: shares and counts for metrics, and never a client's name.

Names are hashed as they come in. What is kept is bounded: of a flood, the last part counts.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Final

DETECTIONS_S: Final = 300.0
"""Over how long a client's share of the detections is taken."""

QUERIES_S: Final = 600.0
"""Over how long suspicious queries of a client are counted."""

LEAST_QUERIES: Final = 10
"""Suspicious queries that make a client one that attacks by queries: such attacks take hundreds, accidents a few."""

_MOST = 4096


class Recent:
    """Which clients did something within so many seconds, at most the last few thousand times. For any thread."""

    def __init__(self, keep_s: float, now_s: Callable[[], float] = time.monotonic) -> None:
        self._keep_s, self._now_s = keep_s, now_s
        self._events: deque[tuple[float, int]] = deque(maxlen=_MOST)
        self._lock = threading.Lock()

    def add(self, client: str) -> None:
        """A client did it."""
        name = hash(client)  # drawn anew by each process
        with self._lock:
            self._events.append((self._now_s(), name))

    def by_client(self) -> list[int]:
        """How often each client did it, without their names."""
        oldest_s = self._now_s() - self._keep_s
        with self._lock:
            while self._events and self._events[0][0] < oldest_s:
                self._events.popleft()
            return list(Counter(name for _, name in self._events).values())


class Suspects:
    """The clients behind one model's detections."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self.detections = Recent(DETECTIONS_S, now_s)
        self.queries = Recent(QUERIES_S, now_s)

    def top_share(self) -> float:
        """The share of the latest detections that the client with most of them has; 0 without any."""
        counts = self.detections.by_client()
        return max(counts) / sum(counts) if counts else 0.0

    def attacking(self) -> int:
        """How many clients sent enough suspicious queries lately to be attacking."""
        return sum(count >= LEAST_QUERIES for count in self.queries.by_client())
