"""Content codings of bodies: gzip and deflate, those that gRPC has too.

Source: RFC 9110, sections 8.4.1 (codings) and 12.5.3 (Accept-Encoding).
"""

from __future__ import annotations

import asyncio
import zlib
from dataclasses import replace

import grpc

from guard.errors import MalformedRequest, Unsupported
from guard.wire.receive import compression_of, unpacked
from guard.wire.rest.pieces import Pieces, joined
from guard.wire.rest.reply import Body, HttpReply

_IDENTITY = "identity"
_WINDOW_BITS = {"gzip": 31, "deflate": 15}

_LEVEL = 1
"""Tensors of floats hardly get smaller, whatever the effort."""

_ON_THE_LOOP = 1 << 15
"""Bytes that are compressed where they are; more goes to a thread."""


async def decoded(body: Pieces, coding: str, max_message_bytes: int) -> Pieces:
    """A body without the coding that `Content-Encoding` names.

    Raises:
        Unsupported: Guard doesn't know the coding.
        MalformedRequest: the body is not in it.
        MessageTooLarge: it inflates to more than `max_message_bytes`.
    """
    coding = coding.strip().lower()
    if coding in {"", _IDENTITY}:
        return body
    if coding not in _WINDOW_BITS:
        raise Unsupported(f"guard does not know the content encoding {coding!r}; use gzip, deflate or none")
    message = bytes(joined(body))
    if compression_of(message) is grpc.Compression.NoCompression:
        raise MalformedRequest(f"the body is not in {coding}, the content encoding that it is sent with")
    return (await unpacked("the request", message, max_message_bytes),)


async def compressed(reply: HttpReply, accept: str) -> HttpReply:
    """The reply in the coding that the client likes best, or as it is."""
    coding = _preferred(accept)
    if coding == _IDENTITY or not reply.body:
        return reply
    if reply.size <= _ON_THE_LOOP:
        body = _deflate(reply.body, _WINDOW_BITS[coding])
    else:
        body = await asyncio.to_thread(_deflate, reply.body, _WINDOW_BITS[coding])
    return replace(reply, headers=(*reply.headers, (b"content-encoding", coding.encode())), body=(body,))


def _deflate(pieces: Body, window_bits: int) -> bytes:
    deflater = zlib.compressobj(_LEVEL, zlib.DEFLATED, window_bits)
    return b"".join((*(deflater.compress(piece) for piece in pieces), deflater.flush()))


def _preferred(accept: str) -> str:
    """The coding of the largest weight, the first of equals."""
    best, most = _IDENTITY, 0.0
    for item in accept.split(","):
        name, *parameters = (part.strip().lower() for part in item.split(";"))
        weight = _weight(parameters)
        if weight > most and (name in _WINDOW_BITS or name == _IDENTITY):
            best, most = name, weight
    return best


def _weight(parameters: list[str]) -> float:
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                return float(parameter.removeprefix("q="))
            except ValueError:
                return 0.0
    return 1.0
