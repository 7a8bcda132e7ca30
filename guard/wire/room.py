"""Bounds on what requests hold together."""

from __future__ import annotations

from guard.errors import Overloaded


class Room:
    """Bounds the bytes of all requests that are in flight."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._taken = 0

    def take(self, size_bytes: int) -> Held:
        """Hold so many bytes until they are released. One request alone always has room.

        Raises:
            Overloaded: those in flight leave too little.
        """
        if self._taken and self._taken + size_bytes > self._max_bytes:
            raise Overloaded(
                f"requests in flight hold {self._taken} bytes, and limits.max_inflight_bytes is {self._max_bytes}; "
                "retry with backoff"
            )
        self._taken += size_bytes
        return Held(self, size_bytes)

    def give_back(self, size_bytes: int) -> None:
        """Hold so many bytes no more."""
        self._taken -= size_bytes


class Held:
    """Bytes held in a room by one who is to release them."""

    __slots__ = ("_room", "_size_bytes")

    def __init__(self, room: Room, size_bytes: int) -> None:
        self._room = room
        self._size_bytes = size_bytes

    def hand_over(self) -> Held:
        """The same bytes, for another to release: this one holds nothing any more."""
        size_bytes, self._size_bytes = self._size_bytes, 0
        return Held(self._room, size_bytes)

    def release(self) -> None:
        """Hold them no more. Once is enough, and twice is no harm."""
        size_bytes, self._size_bytes = self._size_bytes, 0
        self._room.give_back(size_bytes)
