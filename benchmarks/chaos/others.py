"""Clients that come by other ways than a unary call: on streams, and over REST."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import grpc

from benchmarks.chaos.load import Client
from guard.pb.grpc_service_pb2 import ModelStreamInferResponse

Connect = Callable[[], AbstractAsyncContextManager[Client]]
_STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"


class Streaming(Client):
    """Each request on a stream of its own."""

    def __init__(self, channel: grpc.aio.Channel, body: bytes) -> None:
        super().__init__(channel, body)
        self._open = channel.stream_stream(_STREAM, None, ModelStreamInferResponse.FromString)
        self._message = body

    async def send(self, timeout_s: float | None) -> tuple[str, str]:
        """Send it, and read until the stream ends: an error may be told in an answer."""
        try:
            answers = [each async for each in self._open(iter([self._message]), timeout=timeout_s)]
        except grpc.aio.AioRpcError as error:
            return error.code().name, error.details() or ""
        wrong = "".join(each.error_message for each in answers)
        return ("OK", "") if len(answers) == 1 and not wrong else ("UNKNOWN", wrong or f"{len(answers)} answers")


class Rest(Client):
    """Each request on a connection of its own; the body is the whole of it, headers and all."""

    def __init__(self, address: str, body: bytes) -> None:
        self._host, _, port = address.rpartition(":")
        self._port, self._whole = int(port), body

    async def send(self, timeout_s: float | None) -> tuple[str, str]:
        """Send it, and read the status and all of the answer."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self._sent()
        except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            return "UNAVAILABLE", f"{type(error).__name__}: {error}"

    async def _sent(self) -> tuple[str, str]:
        reader, writer = await asyncio.open_connection(self._host, self._port)
        try:
            writer.write(self._whole)
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            length = next(line for line in head.splitlines() if line.startswith("content-length:"))
            body = await reader.readexactly(int(length.partition(":")[2]))
        finally:
            writer.close()
        status = head.split()[1]
        return ("OK", "") if status == "200" else (f"HTTP {status}", body.decode(errors="replace"))


@asynccontextmanager
async def streaming(body: bytes, address: str) -> AsyncIterator[Client]:
    """A client that streams."""
    async with grpc.aio.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        yield Streaming(channel, body)


@asynccontextmanager
async def rest(body: bytes, address: str) -> AsyncIterator[Client]:
    """A client of REST."""
    yield Rest(address, body)
