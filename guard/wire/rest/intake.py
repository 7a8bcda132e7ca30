"""Requests as they come in: their headers, and bodies that are bounded in size, in time and in what all hold."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Self, TypeAlias

from guard.errors import MalformedRequest, RequestTooSlow
from guard.wire.pace import GRACE_S, LEAST_BYTES_PER_S
from guard.wire.receive import check_size, transport_limit
from guard.wire.rest.pieces import Pieces
from guard.wire.room import Room

Receive: TypeAlias = Callable[[], Awaitable[Mapping[str, Any]]]

_STEP_BYTES = 1 << 20
_SMALL_BYTES = 1 << 15
"""Pieces of less are joined at once: by themselves they would take several times their bytes."""


class Intake:
    """Pieces that accumulate, within `max_bytes`, and are counted in the room for all that do."""

    def __init__(self, room: Room, max_bytes: int) -> None:
        self.pieces: list[bytes | bytearray] = []
        self._room = room
        self._max_bytes = max_bytes
        self._size = 0
        self._taken = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._room.give_back(self._taken)

    def add(self, piece: bytes | bytearray) -> None:
        """Append a piece.

        Raises:
            MessageTooLarge: that is more than allowed.
            Overloaded: all others leave no room for it.
        """
        size = self._size + len(piece)
        check_size("the request", size, self._max_bytes)
        while self._taken < size:
            self._room.take(_STEP_BYTES)
            self._taken += _STEP_BYTES
        self._size = size
        if not piece:
            return
        last = self.pieces[-1] if self.pieces else b""
        if len(piece) >= _SMALL_BYTES:
            self.pieces.append(piece)
        elif isinstance(last, bytearray) and len(last) < _SMALL_BYTES:
            last += piece
        else:
            self.pieces.append(bytearray(piece))


class Incoming:
    """One HTTP request. Once its body is complete, a client that leaves cancels the task that made this."""

    def __init__(self, headers: Iterable[tuple[bytes, bytes]], receive: Receive) -> None:
        self.headers = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in headers)
        self._receive = receive
        self._started_s = asyncio.get_running_loop().time()
        self._received = 0
        self._coming = True
        self._task = asyncio.current_task()
        self._watch: asyncio.Task[None] | None = None

    def header(self, name: str) -> str | None:
        """The value of a header that a request has at most once.

        Raises:
            MalformedRequest: it has several.
        """
        values = {value for key, value in self.headers if key == name}
        if len(values) > 1:
            raise MalformedRequest(f"the request has more than one header {name}")
        return next(iter(values), None)

    def listed(self, name: str) -> str:
        """The values of a header that holds a list, as one."""
        return ",".join(value for key, value in self.headers if key == name)

    async def body(self, room: Room, max_bytes: int) -> Pieces:
        """Read the body.

        Raises:
            MessageTooLarge, Overloaded: as `Intake.add`.
            RequestTooSlow: it did not arrive in time.
        """
        check_size("the request", self._announced(), max_bytes)
        piece, more = await self._next()
        if not more:
            check_size("the request", len(piece), max_bytes)
            return (piece,)
        with Intake(room, max_bytes) as intake:
            intake.add(piece)
            while more:
                piece, more = await self._next()
                intake.add(piece)
            return intake.pieces

    async def drain(self, max_message_bytes: int) -> bool:
        """Read what is left of the body, and forget it. Returns whether the connection is of use for another request.

        A client that still sends does not listen: it would find the connection closed, and no answer. As over gRPC,
        what is far over the limit isn't worth it.
        """
        limit = transport_limit(max_message_bytes)
        try:
            while self._coming and max(self._announced(), self._received) <= limit:
                await self._next()
        except (MalformedRequest, RequestTooSlow):
            return False
        return not self._coming

    def answered(self) -> None:
        """From now on the client may leave."""
        if self._watch is not None:
            self._watch.cancel()

    def _announced(self) -> int:
        length = self.header("content-length")
        return int(length) if length is not None and length.isdecimal() else 0  # the server has checked it

    async def _next(self) -> tuple[bytes | bytearray, bool]:
        """The next piece of the body, and whether more follows."""
        try:
            async with asyncio.timeout_at(self._started_s + GRACE_S + self._received / LEAST_BYTES_PER_S):
                message = await self._receive()
        except TimeoutError as error:
            raise RequestTooSlow(f"the body of the request came too slowly: {self._received} bytes") from error
        if message["type"] == "http.disconnect":
            raise asyncio.CancelledError
        piece: bytes | bytearray = message.get("body", b"")
        self._received += len(piece)
        self._coming = bool(message.get("more_body", False))
        if not self._coming:
            self._watch = asyncio.create_task(self._cancel_when_left())
        return piece, self._coming

    async def _cancel_when_left(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if self._task is not None:
            self._task.cancel()
