"""Metadata that gRPC's server takes from a client and gRPC's client does not send on."""

from __future__ import annotations

import asyncio
import struct

import pytest

from benchmarks.chaos.attacks import DATA, END_STREAM, HEADERS, PREFACE, SETTINGS, frame, request_headers
from guard.config import Cancellation
from guard.errors import MalformedRequest
from guard.wire.metadata import check_metadata, to_client
from tests.support.waiting import PATIENCE_S
from tests.wire.parts import SERVICE, RecordingUpstream, Serve

_HEAD = 9


async def ends(address: str, method: str, value: str, asked: bytes) -> bytes:
    """What ends a call with that value in its metadata, made frame by frame: libraries would refuse to."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    body = b"\0" + struct.pack(">I", len(asked)) + asked
    writer.write(PREFACE + frame(SETTINGS) + request_headers(1, ("x-note", value), method=method))
    writer.write(frame(DATA, body, flags=END_STREAM, stream=1))
    try:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                head = await reader.readexactly(_HEAD)
                told = await reader.readexactly(int.from_bytes(head[:3]))
                if head[3] == HEADERS and head[4] & END_STREAM:
                    return told
    finally:
        writer.close()


@pytest.mark.parametrize("cancellation", [Cancellation.NEVER, Cancellation.ALWAYS])
@pytest.mark.parametrize("method", ["ModelInfer", "ModelStreamInfer"])
async def test_it_is_refused(
    serve: Serve,
    upstream: RecordingUpstream,
    message: bytes,
    cancellation: Cancellation,
    method: str,
) -> None:
    """A call that gRPC can't begin never ends there: it would hold its room, and others find none."""
    guard = await serve(cancellation=cancellation, max_inflight_bytes=2 * len(message))
    for value in ("caf\u00e9", "a\tb", "\x7f"):
        told = await ends(guard.address, SERVICE + method, value, message)
        assert b"grpc-status\x013" in told or method == "ModelStreamInfer"  # streams tell it in an answer
    assert guard.metrics.live == 0
    assert guard.metrics.refused == ["malformed_request"] * 3
    assert not upstream.inferred()


def test_what_is_legal() -> None:
    """Printable ASCII, and bytes by names that say so; what the upstream says otherwise stays here."""
    check_metadata((("x-note", "a ~"), ("x-bin", b"\0\xff"), ("a.b_c-1", "")))
    for key, value in (("X", "a"), ("x y", "a"), ("", "a"), ("x", "a\n"), ("x", "\u00e9"), ("x", b"a")):
        with pytest.raises(MalformedRequest, match="can't be sent on: gRPC carries printable ASCII"):
            check_metadata(((key, value),))
    assert to_client((("x", "a\n"), ("y", "b"))) == (("y", "b"),)
