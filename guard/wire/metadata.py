"""Which metadata crosses Guard, in each direction.

Source: gRPC over HTTP/2, "Requests"; RFC 9110, section 7.6.1 (hop-by-hop fields).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from guard.errors import MalformedRequest
from guard.headers import BINARY, is_line, is_name
from guard.wire.status import Metadata

MAX_BYTES = 7 * 1024
"""gRPC servers refuse more than 8 KiB, now and then or always, and some then drop the other calls of the connection."""

_ENTRY_BYTES = 32
_HOP_BY_HOP = frozenset(
    {
        "accept-encoding",
        "connection",
        "content-length",
        "content-type",
        "host",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "user-agent",
    }
)
_RESERVED_PREFIX = "grpc-"
_RESERVED_BUT_CARRIED = frozenset({"grpc-status-details-bin", "grpc-trace-bin", "grpc-tags-bin"})
# Triton reads the second as instructions of its own, and Guard's names mean that Guard wrote them.
_FORGEABLE_PREFIXES = ("guard-", "guard_", "triton-grpc-protocol-")


# gRPC's stubs type a metadata pair differently in each place, hence Any.
def to_upstream(metadata: Iterable[Any]) -> Metadata:
    """A client's metadata without what belongs to its own connection and without what it may not claim."""
    return tuple((key, value) for key, value in metadata if _crosses(key) and not is_forgeable(key))


def is_forgeable(key: str) -> bool:
    """Whether metadata by this name means that Guard wrote it, or is an instruction to the server."""
    return key.lower().startswith(_FORGEABLE_PREFIXES)


def is_legal(key: str, value: str | bytes) -> bool:
    """Whether gRPC carries such a pair."""
    return is_name(key) and (key.endswith(BINARY) or is_line(value))


def check_metadata(metadata: Metadata) -> None:
    """Check what goes to the upstream, where all clients share a connection.

    gRPC's server takes pairs that its client refuses to send, and a call with one of them would never end.

    Raises:
        MalformedRequest: gRPC can't carry it; or it takes more than `MAX_BYTES`, counted as HTTP/2 does (RFC 9113,
            section 6.5.2).
    """
    for key, value in metadata:
        if not is_legal(key, value):
            raise MalformedRequest(
                f"the metadata {key!r} can't be sent on: gRPC carries printable ASCII, and bytes by names that end in "
                f"{BINARY}"
            )
    size = sum(len(key) + len(value) + _ENTRY_BYTES for key, value in metadata)
    if size > MAX_BYTES:
        raise MalformedRequest(f"the request has {size} bytes of metadata or headers, more than {MAX_BYTES}")


def to_client(metadata: Iterable[Any]) -> Metadata:
    """An upstream's metadata, with rich error details, without what belongs to its own connection or can't be sent."""
    return tuple((key, value) for key, value in metadata if _crosses(key) and is_legal(key, value))


def _crosses(key: str) -> bool:
    key = key.lower()
    if key in _RESERVED_BUT_CARRIED:
        return True
    return key not in _HOP_BY_HOP and not key.startswith((_RESERVED_PREFIX, ":"))
