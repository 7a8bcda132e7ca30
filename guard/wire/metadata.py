"""Which metadata crosses Guard, in each direction.

Source: gRPC over HTTP/2, "Requests" and "Custom-Metadata"; RFC 9110, section 7.6.1 (hop-by-hop fields).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from guard.wire.status import Metadata

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
    return tuple(
        (key, value) for key, value in metadata if _crosses(key) and not key.lower().startswith(_FORGEABLE_PREFIXES)
    )


def to_client(metadata: Iterable[Any]) -> Metadata:
    """An upstream's metadata, with rich error details, without what belongs to its own connection."""
    return tuple((key, value) for key, value in metadata if _crosses(key))


def _crosses(key: str) -> bool:
    key = key.lower()
    if key in _RESERVED_BUT_CARRIED:
        return True
    return key not in _HOP_BY_HOP and not key.startswith((_RESERVED_PREFIX, ":"))
