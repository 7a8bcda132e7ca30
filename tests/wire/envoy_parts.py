"""What Envoy asks of Guard's endpoint for it."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc

from guard.pb import ext_proc_pb2 as pb
from guard.wire.envoy.process import PROCESS
from tests.wire.parts import SERVICE, Running

LISTEN = {"envoy_address": "127.0.0.1:0"}
BUFFERED = pb.ProtocolConfiguration(request_body_mode=pb.ProcessingMode.BUFFERED)
HEADERS = {":method": "POST", ":path": f"{SERVICE}ModelInfer", "content-type": "application/grpc"}


def head(headers: dict[str, str] | None = None, *, end: bool = False, **others: Any) -> pb.ProcessingRequest:
    """The first question: headers, with others than usual."""
    pairs = (HEADERS | (headers or {})).items()
    values = [pb.HeaderValue(key=key, raw_value=value.encode()) for key, value in pairs]
    headers_of = pb.HttpHeaders(headers=pb.HeaderMap(headers=values), end_of_stream=end)
    return pb.ProcessingRequest(request_headers=headers_of, **{"protocol_config": BUFFERED} | others)


def body(message: bytes, flag: int = 0) -> pb.ProcessingRequest:
    """The second: the body with one message."""
    return pb.ProcessingRequest(
        request_body=pb.HttpBody(body=struct.pack(">BI", flag, len(message)) + message, end_of_stream=True)
    )


@asynccontextmanager
async def envoy(guard: Running) -> AsyncIterator[grpc.aio.Channel]:
    """A connection to the endpoint for Envoy."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{guard.server.envoy_port}") as channel:
        yield channel


def begin(channel: grpc.aio.Channel) -> Any:
    """Begin to ask about one request."""
    return channel.stream_stream(PROCESS, pb.ProcessingRequest.SerializeToString, pb.ProcessingResponse.FromString)()


async def asked(guard: Running, *questions: pb.ProcessingRequest) -> list[pb.ProcessingResponse]:
    """Ask about one request, one question after the other."""
    async with envoy(guard) as channel:
        call, answers = begin(channel), []
        for question in questions:
            await call.write(question)
            answers.append(await call.read())
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        return answers
