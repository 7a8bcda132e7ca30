"""Where messages of a stream come in: so many at a time, and as far as there is room."""

from __future__ import annotations

import asyncio

from guard.errors import Overloaded
from guard.wire.message import Split, split
from guard.wire.receive import unpacked
from guard.wire.room import Held, Room

MAX_SCREENED = 16
"""Messages of one stream that are screened, or wait for their turn, at a time."""


class Entrance:
    """Lets messages of one stream in. While one waits, it is held as it came: inflated it could be any size."""

    def __init__(self, room: Room, max_message_bytes: int) -> None:
        self._room = room
        self._max_message_bytes = max_message_bytes
        self._inside = 0
        self._moved = asyncio.Event()

    async def admit(self, message: bytes) -> tuple[Split, Held]:
        """Inflate a message, and find room for it. Where it is this stream that takes the room, wait.

        Raises:
            Overloaded: others take the room.
            MessageTooLarge, MalformedRequest: as `unpacked` and `split`.
        """
        while self._inside >= MAX_SCREENED:
            await self._move()
        opened = await self._opened(message)
        if (held := self._take(opened.size)) is not None:
            return opened, held
        size_bytes = opened.size
        del opened
        while (held := self._take(size_bytes)) is None:
            await self._move()
        try:
            return await self._opened(message), held
        except BaseException:
            held.release()
            raise

    def enter(self) -> None:
        """A message goes in, or the error in its place."""
        self._inside += 1

    def leave(self) -> None:
        """One is through."""
        self._inside -= 1
        self._moved.set()

    async def _opened(self, message: bytes) -> Split:
        return split(await unpacked("the request", message, self._max_message_bytes))

    def _take(self, size_bytes: int) -> Held | None:
        try:
            return self._room.take(size_bytes)
        except Overloaded:
            if not self._inside:
                raise
            return None

    async def _move(self) -> None:
        self._moved.clear()
        await self._moved.wait()
