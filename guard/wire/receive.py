"""The messages of a call: not larger than allowed, and inflated within that bound where they came compressed.

gRPC would check a message's size only after it had inflated all of it, so it leaves them to Guard as they came.
Source: RFC 1950 (zlib, which gRPC calls deflate) and RFC 1952 (gzip).
"""

from __future__ import annotations

import asyncio
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import grpc

from guard.config import LARGEST_GRPC_BYTES
from guard.errors import MalformedRequest, MessageTooLarge

_GZIP = b"\x1f\x8b"
_DEFLATE = (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda")
"""How zlib begins. As protobuf each would be field 15, which no message of the protocol has."""

_EITHER = zlib.MAX_WBITS | 32
_SLICE_BYTES = 64 * 1024
_PIECE_BYTES = 1024 * 1024
# Few, so that bombs take neither all cores nor many times the limit in memory.
_INFLATERS = ThreadPoolExecutor(2, thread_name_prefix="guard-inflate")


def transport_limit(max_message_bytes: int) -> int:
    """Of an answer, of Envoy, and of a body over HTTP, what is taken at all: twice the setting.

    So that Guard can refuse one that is a little too large in words that name the setting. Of clients over gRPC it
    takes none, for gRPC makes copies of a message, and refuses in its own words before there is a first.
    """
    return min(2 * max_message_bytes, LARGEST_GRPC_BYTES)


def check_size(what: str, size_bytes: int, max_message_bytes: int) -> None:
    """Check a message against `upstream.max_message_bytes`.

    Raises:
        MessageTooLarge: it has more bytes.
    """
    if size_bytes > max_message_bytes:
        raise MessageTooLarge(
            f"{what} has {size_bytes} bytes, more than upstream.max_message_bytes allows ({max_message_bytes}): "
            "send smaller batches, or have the operator of guard raise it"
        )


def compression_of(message: bytes) -> grpc.Compression:
    """How a message was compressed. gRPC does not say, but no message of the protocol begins as these do."""
    if message.startswith(_GZIP):
        return grpc.Compression.Gzip
    return grpc.Compression.Deflate if message.startswith(_DEFLATE) else grpc.Compression.NoCompression


async def unpacked(what: str, message: bytes, max_message_bytes: int) -> bytes:
    """A message as its sender wrote it, inflated where it was compressed, on a thread and never past the limit.

    Raises:
        MessageTooLarge: it has more than `max_message_bytes`, compressed or not.
        MalformedRequest: its compression is broken.
    """
    check_size(what, len(message), max_message_bytes)
    if compression_of(message) is grpc.Compression.NoCompression:
        return message
    return await asyncio.get_running_loop().run_in_executor(_INFLATERS, _inflated, what, message, max_message_bytes)


@dataclass(slots=True)
class Packing:
    """How the message of a call came, and its answer may go."""

    compression: grpc.Compression = grpc.Compression.NoCompression


async def receive(context: grpc.aio.ServicerContext[Any, Any], max_message_bytes: int, packing: Packing) -> bytes:
    """Read the message of a call, as a handler for streams does, and note how it came.

    Handlers for unary calls never hear of a message that gRPC did not take, so that nothing could count it. Here it
    shows as a call without a message; the client sees gRPC's own refusal.

    Raises:
        MessageTooLarge: it is over `max_message_bytes`.
        MalformedRequest: its compression is broken.
    """
    # An iterator that isn't read to its end would cost the event loop a task of its own to close it.
    message = await context.read()
    if not isinstance(message, bytes):
        raise MessageTooLarge(
            f"gRPC took no message: it has more than the {max_message_bytes} bytes that upstream.max_message_bytes "
            "allows, or the client sent none"
        )
    packing.compression = compression_of(message)
    return await unpacked("the request", message, max_message_bytes)


def _inflated(what: str, message: bytes, max_message_bytes: int) -> bytes:
    """Inflate piece by piece: of a bomb there is never more in memory than the limit and one piece."""
    inflater, pieces, size = zlib.decompressobj(_EITHER), list[bytes](), 0
    try:
        for at in range(0, len(message), _SLICE_BYTES):
            left, full = message[at : at + _SLICE_BYTES], False
            while left or full:
                pieces.append(inflater.decompress(left, _PIECE_BYTES))
                left, full = inflater.unconsumed_tail, len(pieces[-1]) == _PIECE_BYTES
                size += len(pieces[-1])
                if size > max_message_bytes:
                    raise MessageTooLarge(
                        f"{what} inflates to more than upstream.max_message_bytes allows ({max_message_bytes}): "
                        "send smaller batches, or have the operator of guard raise it"
                    )
    except zlib.error as error:
        raise MalformedRequest(f"{what} begins like gzip or deflate, and can't be inflated") from error
    if not inflater.eof or inflater.unused_data:
        raise MalformedRequest(f"{what} is compressed, and ends too early or has more after its end")
    return b"".join(pieces)
