"""Writing a head and its body at once."""

from __future__ import annotations

import asyncio
from typing import Any

_MOST_BYTES = 1 << 16


class Corked:
    """A transport that holds what is written until the event loop's next turn, and then sends all of it at once.

    uvicorn writes the head and the body of an answer one after the other, and each write is a system call, a tenth of
    what a small request costs. Large pieces are not held, for joining them would cost more than it saves.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send data, soon."""
        if len(data) > _MOST_BYTES:
            self._flush()
            self._transport.write(data)
            return
        if not self._held:
            self._loop.call_soon(self._flush)
        self._held.append(data)

    def close(self) -> None:
        """Send what is left, and close."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        data, self._held = b"".join(self._held), []
        if data and not self._transport.is_closing():
            self._transport.write(data)
