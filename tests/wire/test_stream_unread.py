"""Clients of streams that take no answers: they hold nothing that others need, and not for ever."""

from __future__ import annotations

import asyncio
import gzip
import struct
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from benchmarks.chaos.attacks import DATA, HEADERS, PING, PREFACE, SETTINGS, frame, request_headers
from guard.errors import Overloaded
from guard.wire import message, stream_answers, stream_entrance
from guard.wire.room import Room
from guard.wire.stream_entrance import MAX_SCREENED, Entrance
from tests.support.waiting import PATIENCE_S
from tests.wire.parts import Decide, Serve
from tests.wire.stream_parts import ByValue, taken_bytes, talk, until
from tests.wire.stream_upstream import STREAM, StreamingUpstream, large, request

NO_WINDOW = frame(SETTINGS, struct.pack(">HI", 4, 0))
WINDOW_UPDATE = 8
REJECTED = request(value=2).SerializeToString()


class Deaf:
    """A client's stream, whose answers have a window of no bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        writer.write(PREFACE + NO_WINDOW + request_headers(1, method=STREAM))

    def send(self, *messages: bytes) -> None:
        """Send requests."""
        for each in messages:
            self._writer.write(frame(DATA, b"\0" + struct.pack(">I", len(each)) + each, stream=1))

    async def listen(self) -> bytes:
        """Take answers after all: the last words of the stream."""
        self._writer.write(frame(WINDOW_UPDATE, struct.pack(">I", 1 << 20), stream=1))
        async with asyncio.timeout(PATIENCE_S):
            heads = 0
            while heads < 2:  # the head of the answers, and the end
                head = await self._reader.readexactly(9)
                last = await self._reader.readexactly(int.from_bytes(head[:3]))
                if head[3] == PING and not head[4]:
                    self._writer.write(frame(PING, last, flags=1))
                heads += head[3] == HEADERS
        return last


@asynccontextmanager
async def deaf(address: str) -> AsyncIterator[Deaf]:
    """A stream whose client takes no answers."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield Deaf(reader, writer)
    finally:
        writer.close()


@pytest.fixture
def judge(decide: Decide) -> ByValue:
    """Rejects the value 2."""
    return ByValue(decide, rejected={2})


async def test_nothing_is_held(serve: Serve, streams: StreamingUpstream, judge: ByValue) -> None:
    """What Guard answers itself is done with before its answer is read, and leaves its room to others."""
    guard = await serve(judge, address=streams.address, max_inflight_bytes=5 * len(REJECTED) // 2)
    async with deaf(guard.address) as client, talk(guard) as other:
        client.send(b"\xff", REJECTED, REJECTED, b"\x1f\x8b", *[REJECTED] * MAX_SCREENED)
        await until(lambda: len(guard.metrics.finished) == MAX_SCREENED)
        assert taken_bytes(guard) == 0
        assert len(guard.metrics.refused) == 2
        await other.send(request(value=1))
        assert not (await other.hear()).error_message


async def test_no_more_are_read(serve: Serve, streams: StreamingUpstream) -> None:
    """Answers that wait to be read are bounded, also those to what is no request."""
    guard = await serve(address=streams.address)
    async with deaf(guard.address) as client:
        client.send(*[b"\x1f\x8b"] * 10 * MAX_SCREENED)
        await until(lambda: len(guard.metrics.refused) == MAX_SCREENED)
        await asyncio.sleep(0.05)
        assert len(guard.metrics.refused) == guard.metrics.live == MAX_SCREENED


async def test_it_ends(
    serve: Serve, streams: StreamingUpstream, judge: ByValue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a while the stream ends, with what waited behind the answer; the client finds out when it listens."""
    monkeypatch.setattr(stream_answers, "GRACE_S", 0.2)
    guard = await serve(judge, address=streams.address)
    async with deaf(guard.address) as client:
        client.send(REJECTED, request(value=1).SerializeToString())
        await until(lambda: "request_too_slow" in guard.metrics.refused)
        await until(lambda: guard.metrics.live == 1)  # whose answer is on its way
        assert taken_bytes(guard) == 0
        assert b"did not read its answers" in await client.listen()
        await until(lambda: not guard.metrics.live)


async def test_an_upstream_that_answers_is_not_waited_for(
    serve: Serve, streams: StreamingUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers of the upstream have the same time."""
    monkeypatch.setattr(stream_answers, "GRACE_S", 0.2)
    guard = await serve(address=streams.address)
    async with deaf(guard.address) as client:
        client.send(request().SerializeToString())
        await until(lambda: guard.metrics.refused == ["request_too_slow"])
        assert b"did not read its answers" in await client.listen()


class TestEntrance:
    """Messages that wait for room."""

    @pytest.fixture
    def opened(self, monkeypatch: pytest.MonkeyPatch) -> list[weakref.ref[memoryview]]:
        """The raw contents of what was opened."""
        seen: list[weakref.ref[memoryview]] = []

        def watched(came: bytes) -> message.Split:
            made = message.split(came)
            seen.append(weakref.ref(made.raw[0]))
            return made

        monkeypatch.setattr(stream_entrance, "split", watched)
        return seen

    async def test_they_wait_as_they_came(self, opened: list[weakref.ref[memoryview]]) -> None:
        """One that waits is not held inflated, for nothing counts it; it is inflated again once there is room."""
        room = Room(1000)
        entrance = Entrance(room, 10_000)
        first = room.take(1000)
        entrance.enter()
        plain = request().SerializeToString()
        waiting = asyncio.create_task(entrance.admit(gzip.compress(plain)))
        await until(lambda: len(opened) == 1)
        await until(lambda: opened[0]() is None)
        first.release()
        entrance.leave()
        came, held = await waiting
        assert (came.message, len(opened)) == (plain, 2)
        held.release()
        assert room._taken == 0

    async def test_one_that_gives_up_leaves_its_room(self) -> None:
        """Who leaves while a message is inflated again holds nothing."""
        room = Room(1000)
        entrance = Entrance(room, 10_000_000)
        first = room.take(1000)
        entrance.enter()
        packed = gzip.compress(large(0).SerializeToString())
        waiting = asyncio.create_task(entrance.admit(packed))
        while not entrance._moved._waiters:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.01)
        first.release()
        entrance.leave()
        while not room._taken:  # noqa: ASYNC110 - it is inflated in a moment
            await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait({waiting})
        assert room._taken == 0

    async def test_room_that_others_took_meanwhile(self) -> None:
        """Once none of its own is under way, one that waits is refused as if it came now."""
        room = Room(1000)
        entrance = Entrance(room, 10_000)
        room.take(1000)
        entrance.enter()
        waiting = asyncio.create_task(entrance.admit(request().SerializeToString()))
        await asyncio.sleep(0)
        entrance.leave()
        with pytest.raises(Overloaded):
            await waiting
