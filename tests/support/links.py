"""How tests reach a server."""

from __future__ import annotations

from guard.channel import Link
from guard.config import Upstream


def link(address: str) -> Link:
    """A server without TLS or secret."""
    return Link(Upstream(address=address))
