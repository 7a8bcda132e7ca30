"""HTTP headers as gRPC metadata, and who sent them.

Source: gRPC over HTTP/2, "Custom-Metadata" (characters, `-bin`); RFC 9110, section 7.6.1 (hop-by-hop fields).
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
from collections.abc import Iterable

from guard.headers import BINARY
from guard.wire.metadata import check_metadata, is_legal, to_upstream
from guard.wire.status import Metadata

_OF_THIS_BODY = frozenset({"content-encoding", "inference-header-content-length", "expect", "accept"})


def from_headers(headers: Iterable[tuple[str, str]]) -> Metadata:
    """The headers that go on to the upstream, by the rules for metadata. What gRPC can't carry is left out.

    Raises:
        MalformedRequest: they are too large for it.
    """
    headers = tuple(headers)
    named = {name.strip().lower() for key, value in headers if key == "connection" for name in value.split(",")}
    carried: list[tuple[str, str | bytes]] = []
    for key, value in headers:
        if key in named or key in _OF_THIS_BODY:
            continue
        carried_value = _decoded(value) if key.endswith(BINARY) else value
        if carried_value is not None and is_legal(key, carried_value):
            carried.append((key, carried_value))
    metadata = to_upstream(carried)
    check_metadata(metadata)
    return metadata


def client_name(host: str) -> str:
    """Whose request it is that comes from an address, by the same name as over gRPC."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        return f"ipv4:{address.ipv4_mapped}" if address.ipv4_mapped else f"ipv6:%5B{address}%5D"
    return f"ipv4:{address}"


def _decoded(value: str) -> bytes | None:
    """Base64, with or without its padding."""
    try:
        return base64.b64decode(value + "=" * (-len(value) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None
