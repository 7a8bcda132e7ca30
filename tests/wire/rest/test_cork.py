"""Writes that are sent at once."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from guard.wire.rest.cork import Corked


class Recording:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        """Keep it."""
        self.written.append(bytes(data))

    def is_closing(self) -> bool:
        """Whether it was closed."""
        return self.closed

    def close(self) -> None:
        """Close."""
        self.closed = True


@pytest.fixture
def transport() -> Recording:
    """What is below."""
    return Recording()


@pytest.fixture
async def corked(transport: Recording) -> Corked:
    """What is above it."""
    return Corked(cast("Any", transport), asyncio.get_running_loop())


async def test_small_writes_go_together(corked: Corked, transport: Recording) -> None:
    """A head and a small body are one write, at the loop's next turn."""
    corked.write(b"head ")
    corked.write(b"body")
    assert transport.written == []
    await asyncio.sleep(0)
    assert transport.written == [b"head body"]


async def test_large_writes_go_alone(corked: Corked, transport: Recording) -> None:
    """A large piece is not joined with what was held, and comes after it."""
    corked.write(b"head")
    corked.write(bytes(100_000))
    corked.write(b"tail")
    await asyncio.sleep(0)
    assert transport.written == [b"head", bytes(100_000), b"tail"]


async def test_closing_sends_what_is_held(corked: Corked, transport: Recording) -> None:
    """Nothing is lost when the connection is closed right after."""
    corked.write(b"last words")
    corked.close()
    assert (transport.written, corked.is_closing()) == ([b"last words"], True)


async def test_a_lost_connection(corked: Corked, transport: Recording) -> None:
    """What is held for a connection that is gone is forgotten."""
    corked.write(b"nobody hears")
    transport.closed = True
    await asyncio.sleep(0)
    assert transport.written == []
