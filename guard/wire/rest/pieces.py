"""A body in the pieces that it came in: what needs one piece of it makes the only copy."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TypeAlias

Pieces: TypeAlias = Sequence[bytes | bytearray]


def joined(pieces: Pieces) -> bytes | bytearray:
    """All of a body, not copied if it is one piece."""
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


class Reader:
    """Reads a body from its beginning to its end. `left` bytes are left of it."""

    def __init__(self, pieces: Pieces) -> None:
        self._views = deque(memoryview(piece).toreadonly() for piece in pieces)
        self.left = sum(map(len, pieces))

    def take(self, size: int) -> tuple[memoryview, ...]:
        """The next `size` bytes, of which there are so many, as views: one at least, and more where pieces meet."""
        self.left -= size
        taken = []
        while size:
            view = self._views.popleft()
            if len(view) > size:
                self._views.appendleft(view[size:])
                view = view[:size]
            taken.append(view)
            size -= len(view)
        return tuple(taken) or (memoryview(b""),)
