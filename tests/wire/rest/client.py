"""A plain HTTP client, which also does what good clients don't."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import h11

from tests.support.waiting import PATIENCE_S

TIMEOUT_S = PATIENCE_S


@dataclass(frozen=True)
class Answer:
    """What a client sees of a call."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, or the part of it before binary tensors, as JSON."""
        length = self.headers.get("inference-header-content-length")
        return json.loads(self.body if length is None else self.body[: int(length)])

    @property
    def error(self) -> str:
        """What an answer that is not OK says."""
        assert list(self.json) == ["error"]
        message: str = self.json["error"]
        return message


class Connection:
    """One connection, on which one request follows the other."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self._state = h11.Connection(h11.CLIENT)

    @classmethod
    async def to(cls, port: int) -> Self:
        """Connect."""
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.writer.close()

    async def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> Answer:
        """Send a request and wait for its answer. Headers have underscores where there are hyphens."""
        self.begin(method, path, len(body), **headers)
        self.send(h11.Data(data=body))
        self.send(h11.EndOfMessage())
        return await self.answer()

    def begin(self, method: str, path: str, length: int | None = 0, **headers: str) -> None:
        """Send the head of a request; without a length its body goes in chunks."""
        framing = ("Transfer-Encoding", "chunked") if length is None else ("Content-Length", str(length))
        named = [(name.replace("_", "-"), value.encode("latin-1")) for name, value in headers.items()]
        self.send(h11.Request(method=method, target=path, headers=[("Host", "guard"), framing, *named]))

    def send(self, event: h11.Event) -> None:
        """Send a part of a request."""
        self.writer.write(self._state.send(event) or b"")

    async def answer(self) -> Answer:
        """Wait for an answer."""
        async with asyncio.timeout(TIMEOUT_S):
            response = await self._next()
            while not isinstance(response, h11.Response):
                response = await self._next()
            pieces = []
            while isinstance(event := await self._next(), h11.Data):
                pieces.append(bytes(event.data))
        if self._state.our_state is h11.DONE and self._state.their_state is h11.DONE:
            self._state.start_next_cycle()
        headers = {name.decode(): value.decode() for name, value in response.headers}
        return Answer(response.status_code, headers, b"".join(pieces))

    async def closed(self) -> bool:
        """Wait for the end of the connection, and say that it came without an answer."""
        async with asyncio.timeout(TIMEOUT_S):
            try:
                return await self.reader.read(1) == b""
            except ConnectionError:
                return True

    async def _next(self) -> h11.Event:
        while True:
            event = self._state.next_event()
            if event is not h11.NEED_DATA:
                assert not isinstance(event, type), event
                return event
            self._state.receive_data(await self.reader.read(1 << 16))


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[Connection]:
    """A connection, closed at the end."""
    async with await Connection.to(port) as connection:
        yield connection


async def ask(port: int, method: str, path: str, body: bytes = b"", **headers: str) -> Answer:
    """Make one call on a connection of its own."""
    async with connected(port) as connection:
        return await connection.ask(method, path, body, **headers)
