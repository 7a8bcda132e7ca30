"""Bounds on what requests hold together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from guard.errors import Overloaded


class Room:
    """Bounds the bytes of all requests that are in flight."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._taken = 0

    @contextmanager
    def taken(self, size_bytes: int) -> Iterator[None]:
        """Hold so many bytes for as long as the context lasts. One request alone always has room.

        Raises:
            Overloaded: those in flight leave too little.
        """
        if self._taken and self._taken + size_bytes > self._max_bytes:
            raise Overloaded(
                f"requests in flight hold {self._taken} bytes, and limits.max_inflight_bytes is {self._max_bytes}; "
                "retry with backoff"
            )
        self._taken += size_bytes
        try:
            yield
        finally:
            self._taken -= size_bytes
