"""The store that replicas share their queries through: how its address is written, and what is counted of it.

It is below the settings, which have its address, and the metrics, whose labels are its closed sets.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

_PORT = 6379
_LARGEST_PORT = 65535

PATTERN = r"(rediss?)://(?:([^\s:/@]+)@)?(\[[0-9A-Fa-f:.]+\]|[^\s:/@\[\]?#]+)(?::([0-9]{1,5}))?(?:/([0-9]{1,5})?)?"
"""Scheme, user, host, port and database; no options of a client library, which could switch its checks off."""

_WITH_PASSWORD = r"\w+://[^@\s]*:[^\s]*@.*"  # noqa: S105 - how one looks


class HoldsPassword(ValueError):
    """An address that must not be shown."""


class StoreFailure(StrEnum):
    """Why an exchange with the store failed. A closed set: it labels a metric."""

    TIMEOUT = "timeout"
    UNREACHABLE = "unreachable"
    REFUSED = "refused"


class Sharing(StrEnum):
    """What became of a query between replicas. A closed set: it labels a metric."""

    SENT = "sent"
    DROPPED = "dropped"
    RECEIVED = "received"
    UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True)
class StoreAddress:
    """A Redis or Valkey server. As text it is `host:port`."""

    host: str
    port: int
    database: int
    user: str | None
    tls: bool

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def store_address(url: str) -> StoreAddress:
    """Take a URL apart: `redis://host`, or `rediss://user@host:port/database`.

    Raises:
        HoldsPassword: there is a password in it.
        ValueError: it has another form, or its port is over 65535.
    """
    match = re.fullmatch(PATTERN, url)
    if match is None and re.fullmatch(_WITH_PASSWORD, url):
        raise HoldsPassword("holds a password, and policy files are read by many")
    if match is None:
        raise ValueError("it is no redis://host:port or rediss://host:port")
    scheme, user, host, port, database = match.groups()
    if int(port or _PORT) > _LARGEST_PORT:
        raise ValueError(f"port {port} is over {_LARGEST_PORT}")
    return StoreAddress(host.strip("[]"), int(port or _PORT), int(database or 0), user, tls=scheme == "rediss")
