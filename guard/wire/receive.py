"""The one message of a unary call: not larger than allowed, and not compressed."""

from __future__ import annotations

from collections.abc import AsyncIterator

from guard.config import LARGEST_GRPC_BYTES
from guard.errors import Compressed, MessageTooLarge

_GZIP = b"\x1f\x8b"
_DEFLATE = (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda")
"""How zlib begins. As protobuf each would be field 15, which no request of the protocol has."""


def transport_limit(max_message_bytes: int) -> int:
    """What gRPC itself is told to take: twice the setting.

    gRPC refuses in its own words, which name no setting, and before there is a handler to log it. The usual mistake
    is a batch some rows too large, and that Guard refuses itself. What is larger still isn't worth the memory.
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


async def receive(messages: AsyncIterator[bytes], max_message_bytes: int) -> bytes:
    """Read the message of a call that a handler for streams got.

    Handlers for unary calls never hear of a message that gRPC did not take, so that nothing could count it. Here it
    shows as a call without a message; the client sees gRPC's own refusal.

    Raises:
        MessageTooLarge: it is over `max_message_bytes`.
        Compressed: it is compressed. The server leaves that as it came, for gRPC would check its size only after it
            had inflated all of it.
    """
    async for message in messages:
        check_size("the request", len(message), max_message_bytes)
        if message.startswith((_GZIP, *_DEFLATE)):
            raise Compressed("guard takes no compressed requests; send this one without compression")
        return message
    raise MessageTooLarge(
        f"gRPC took no message: it has more than {transport_limit(max_message_bytes)} bytes, where "
        f"upstream.max_message_bytes allows {max_message_bytes}, or the client sent none"
    )
