"""The four clients alike: those for asyncio run on a loop of their own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from guard.client import Answer, AsyncClient, Client, Screened
from tests.support.loop import LoopThread

KINDS = ("grpc", "http", "grpc aio", "http aio")


class Waiting:
    """An `AsyncClient`, for tests that wait."""

    def __init__(self, loop: LoopThread, address: str, **options: Any) -> None:
        self._loop = loop

        async def make() -> AsyncClient:
            return AsyncClient(address, **options)

        self.client = loop.run(make())
        self.tensor = self.client.tensor

    def infer(self, *arguments: Any, **options: Any) -> Answer:
        """As the client's."""
        return self._loop.run(self.client.infer(*arguments, **options))

    def screen_only(self, *arguments: Any, **options: Any) -> Screened:
        """As the client's."""
        return self._loop.run(self.client.screen_only(*arguments, **options))

    def close(self) -> None:
        """As the client's."""
        self._loop.run(self.client.close())


@contextmanager
def peer(kind: str, grpc_port: int, http_port: int, **options: Any) -> Iterator[Client | Waiting]:
    """A client of a kind, closed at the end."""
    scheme = kind.split(maxsplit=1)[0] + ("s" if "tls" in options else "")
    address = f"{scheme}://127.0.0.1:{http_port if kind.startswith('http') else grpc_port}"
    if not kind.endswith("aio"):
        with Client(address, **options) as client:
            yield client
        return
    with LoopThread() as loop:
        made = Waiting(loop, address, **options)
        try:
            yield made
        finally:
            made.close()
