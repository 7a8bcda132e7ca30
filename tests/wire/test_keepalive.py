"""Connections that are dead or hostile: the dead are noticed, and floods of pings and streams are bounded."""

from __future__ import annotations

import asyncio
import contextlib
import struct
import time
from collections.abc import AsyncIterator

import grpc
import pytest

from guard.config import Limits
from tests.support.waiting import PATIENCE_S
from tests.wire.parts import RecordingUpstream, Serve

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_SETTINGS, _PING, _GOAWAY = 4, 6, 7
_MAX_CONCURRENT_STREAMS = 3
_ENHANCE_YOUR_CALM = 11


class Line:
    """A TCP connection through here, which goes dead without a word when told."""

    def __init__(self) -> None:
        self.alive = asyncio.Event()
        self.alive.set()
        self.address = ""
        self._target = ("", 0)
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, target: str) -> None:
        """Connect every caller with the target."""
        host, _, port = target.rpartition(":")
        self._target = host, int(port)
        self._server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        """Cut everything."""
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(*self._target)
        self._tasks += [asyncio.create_task(self._carry(reader, back)), asyncio.create_task(self._carry(there, writer))]

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                await self.alive.wait()
                writer.write(data)
        finally:
            writer.close()


@pytest.fixture
async def line(upstream: RecordingUpstream) -> AsyncIterator[Line]:
    """A line to the upstream."""
    made = Line()
    await made.start(upstream.address)
    yield made
    await made.stop()


async def test_a_dead_upstream_is_noticed(
    serve: Serve, upstream: RecordingUpstream, line: Line, message: bytes
) -> None:
    """A call without deadline to a server that has vanished ends as UNAVAILABLE, after twice keepalive_s."""
    guard = await serve(address=line.address, reach={"keepalive_s": 2, "unresponsive_s": 3 * PATIENCE_S})
    upstream.release.clear()
    call = guard.start_call("ModelInfer", message)
    await asyncio.wait_for(upstream.started.wait(), PATIENCE_S)
    line.alive.clear()
    began_s = time.monotonic()
    assert await asyncio.wait_for(call.code(), PATIENCE_S) is grpc.StatusCode.UNAVAILABLE
    assert time.monotonic() - began_s > 0.9


async def test_a_dead_client_is_noticed(serve: Serve, upstream: RecordingUpstream, message: bytes) -> None:
    """The call of a client that has vanished is cancelled: nobody works for the dead."""
    guard, made = await serve(listen={"keepalive_s": 2}), Line()
    guard.screener.release.clear()
    await made.start(guard.address)
    try:
        async with grpc.aio.insecure_channel(made.address) as channel:
            call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")(message)
            await asyncio.wait_for(guard.screener.entered.wait(), PATIENCE_S)
            made.alive.clear()
            await asyncio.wait_for(guard.screener.cancelled.wait(), PATIENCE_S)
            call.cancel()
    finally:
        await made.stop()


class Raw:
    """An HTTP/2 connection, frame by frame."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        writer.write(_PREFACE)
        self.send(_SETTINGS, b"")

    def send(self, kind: int, payload: bytes) -> None:
        """Send a frame of the connection itself."""
        self._writer.write(struct.pack(">I", len(payload))[1:] + bytes([kind, 0]) + bytes(4) + payload)

    async def receive(self, kind: int) -> bytes:
        """The next frame of a kind."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                head = await self._reader.readexactly(9)
                payload = await self._reader.readexactly(int.from_bytes(head[:3]))
                if head[3] == kind and not (kind == _SETTINGS and head[4] & 1):
                    return payload

    async def ended(self) -> None:
        """Wait until the other side hangs up."""
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(PATIENCE_S):
                while await self._reader.read(65536):
                    pass

    def close(self) -> None:
        """Hang up."""
        self._writer.close()


async def test_a_flood_of_pings(serve: Serve, upstream: RecordingUpstream) -> None:
    """Who asks again and again whether Guard is there is told to calm down, and cut off; others are not."""
    guard = await serve()
    host, _, port = guard.address.partition(":")
    flood = Raw(*await asyncio.open_connection(host, int(port)))
    for number in range(4):
        flood.send(_PING, number.to_bytes(8))
    goaway = await flood.receive(_GOAWAY)
    assert int.from_bytes(goaway[4:8]) == _ENHANCE_YOUR_CALM
    assert goaway[8:] == b"too_many_pings"
    await flood.ended()
    flood.close()
    assert (await guard.call("ServerReady")).code is grpc.StatusCode.OK


async def test_streams_of_one_connection(serve: Serve, upstream: RecordingUpstream) -> None:
    """A client is told how many calls it may have at once on a connection."""
    guard = await serve()
    host, _, port = guard.address.partition(":")
    raw = Raw(*await asyncio.open_connection(host, int(port)))
    payload = await raw.receive(_SETTINGS)
    raw.close()
    settings = dict(struct.iter_unpack(">HI", payload))
    assert settings[_MAX_CONCURRENT_STREAMS] == Limits().max_concurrent_streams
