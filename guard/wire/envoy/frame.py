"""The one message in the body of a unary gRPC call.

Source: gRPC over HTTP/2, "Length-Prefixed-Message".
"""

from __future__ import annotations

import struct

import grpc

from guard.errors import MalformedRequest
from guard.plural import counted
from guard.wire.receive import check_size, compression_of, unpacked

_PREFIX = struct.Struct(">BI")
_PLAIN, _COMPRESSED = 0, 1


def framed(message: bytes) -> bytes:
    """A body with one message, which is not compressed."""
    return _PREFIX.pack(_PLAIN, len(message)) + message


def plain(body: bytes) -> bytes | None:
    """The message of a body that holds one, not compressed; None of any other body."""
    if len(body) < _PREFIX.size or _PREFIX.unpack_from(body) != (_PLAIN, len(body) - _PREFIX.size):
        return None
    return body[_PREFIX.size :]


async def unframed(body: bytes | memoryview, max_message_bytes: int) -> bytes:
    """The message of a body, inflated within the limit where it is compressed.

    Raises:
        MalformedRequest: the body holds no message, more than one, or one whose compression is broken.
        MessageTooLarge: the message has more than `max_message_bytes`, compressed or not.
    """
    if len(body) < _PREFIX.size:
        raise MalformedRequest(f"the body of the call has {counted(len(body), 'byte')}, and so no message in it")
    flag, length = _PREFIX.unpack_from(body)
    if flag not in {_PLAIN, _COMPRESSED} or length != len(body) - _PREFIX.size:
        raise MalformedRequest(
            f"the body of the call is not one message: its prefix says flag {flag} and {counted(length, 'byte')}, and "
            f"{len(body) - _PREFIX.size} follow"
        )
    check_size("the request", length, max_message_bytes)
    message = bytes(memoryview(body)[_PREFIX.size :])
    if flag == _PLAIN:
        return message
    if compression_of(message) is grpc.Compression.NoCompression:
        raise MalformedRequest("the message is marked as compressed, and is neither gzip nor deflate; send it plain")
    return await unpacked("the request", message, max_message_bytes)
