"""The load: requests in a closed loop, from a process of its own.

Reads a cell a line, as JSON: where, how (grpc or http), which file of bytes, how many requests, how many at a time.
Says `ready` once it is warm, waits for a line, sends, and answers with one line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeAlias

import grpc

_METHOD = "/inference.GRPCInferenceService/ModelInfer"
_ANY_SIZE = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
_TIMEOUT_S = 60.0
_OK = b"200"

Ask: TypeAlias = Callable[[], Awaitable[str]]
"""Sends one request; what went wrong, "" if nothing."""


async def _grpc(cell: dict[str, Any], body: bytes, held: AsyncExitStack) -> list[Ask]:
    """One channel for all, as clients of Triton have it. Its connections are not shared with earlier cells."""
    options = [*_ANY_SIZE, ("grpc.use_local_subchannel_pool", 1)]
    channel = await held.enter_async_context(grpc.aio.insecure_channel(cell["address"], options))
    call = channel.unary_unary(_METHOD, None, None)

    async def ask() -> str:
        try:
            await call(body)
        except grpc.aio.AioRpcError as error:
            return f"{error.code().name}: {error.details()}"
        return ""

    return [ask] * cell["concurrency"]


async def _http(cell: dict[str, Any], body: bytes, held: AsyncExitStack) -> list[Ask]:
    """A connection that is kept for each request at a time, without a client library's own costs."""
    host, port = cell["address"].split(":")

    async def connection() -> Ask:
        reader, writer = await asyncio.open_connection(host, int(port))
        held.callback(writer.close)

        async def ask() -> str:
            writer.write(body)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(head.partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0])
            answer = await reader.readexactly(length)
            return "" if head.split()[1] == _OK else answer.decode(errors="replace")

        return ask

    return [await connection() for _ in range(cell["concurrency"])]


async def _send(asks: list[Ask], requests: int) -> dict[str, Any]:
    """Send so many requests, one at a time by each of `asks`."""
    left = iter(range(requests))
    latencies: list[float] = []
    problems: list[str] = []

    async def client(ask: Ask) -> None:
        for _ in left:
            started = time.perf_counter()
            problem = await ask()
            latencies.append(time.perf_counter() - started)
            if problem:
                problems.append(problem)

    begun = time.perf_counter()
    async with asyncio.timeout(_TIMEOUT_S):
        await asyncio.gather(*map(client, asks))
    took_s = time.perf_counter() - begun
    return {"took_s": took_s, "latencies_s": latencies, "failed": len(problems), "problem": next(iter(problems), "")}


async def _cell(cell: dict[str, Any]) -> dict[str, Any]:
    async with AsyncExitStack() as held:
        open_ = _http if cell["protocol"] == "http" else _grpc
        asks = await open_(cell, await asyncio.to_thread(Path(cell["body"]).read_bytes), held)
        await _send(asks, max(2, cell["concurrency"]))
        _say("ready")
        await asyncio.to_thread(sys.stdin.readline)
        return await _send(asks, cell["requests"])


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


async def _main() -> None:
    while line := await asyncio.to_thread(sys.stdin.readline):
        _say(json.dumps(await _cell(json.loads(line))))


if __name__ == "__main__":
    asyncio.run(_main())
