"""Which coding an answer gets, and which bodies are inflated."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable

import pytest

from guard.errors import MalformedRequest, MessageTooLarge, Unsupported
from guard.wire.rest.coding import compressed, decoded
from guard.wire.rest.reply import HttpReply

LIMIT = 100_000


@pytest.mark.parametrize(
    ("accept", "coding"),
    [
        ("", None),
        ("gzip", "gzip"),
        ("deflate, gzip", "deflate"),
        ("deflate;q=0.5, gzip", "gzip"),
        ("GZIP ; q=1", "gzip"),
        ("gzip;q=0", None),
        ("identity, gzip;q=0.9", None),
        ("br, *", None),
        ("gzip;q=much", None),
    ],
)
@pytest.mark.parametrize("size", [100, 100_000])
async def test_answers(accept: str, coding: str | None, size: int) -> None:
    """An answer has the coding that the client likes best of those that Guard has, whether it is small or large."""
    reply = await compressed(HttpReply(body=(b"a" * size, memoryview(b"b" * size))), accept)
    assert dict(reply.headers).get(b"content-encoding") == (coding.encode() if coding else None)
    plain = {None: bytes, "gzip": gzip.decompress, "deflate": zlib.decompress}[coding](b"".join(reply.body))
    assert plain == b"a" * size + b"b" * size
    assert (reply.size < size) == (coding is not None)


@pytest.mark.parametrize(("coding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
async def test_requests(coding: str, compress: Callable[[bytes], bytes]) -> None:
    """A body in a coding that Guard has is inflated, up to the limit and no further."""
    body = compress(bytes(LIMIT))
    assert await decoded((body[:3], bytearray(body[3:])), coding.upper(), LIMIT) == (bytes(LIMIT),)
    with pytest.raises(MessageTooLarge):
        await decoded((compress(bytes(LIMIT + 1)),), coding, LIMIT)
    with pytest.raises(MalformedRequest):
        await decoded((compress(bytes(LIMIT))[:-1],), coding, LIMIT)


@pytest.mark.parametrize("coding", ["", "identity"])
async def test_plain_requests(coding: str) -> None:
    """A body without a coding is left alone."""
    body = (b"{", b"}")
    assert await decoded(body, coding, LIMIT) is body


async def test_requests_that_are_refused() -> None:
    """A coding that Guard doesn't have is refused, and one that the body isn't in."""
    with pytest.raises(Unsupported, match="content encoding 'br'; use gzip, deflate or none"):
        await decoded((), "br", LIMIT)
    with pytest.raises(MalformedRequest, match="the body is not in gzip"):
        await decoded((b"{}",), "gzip", LIMIT)
