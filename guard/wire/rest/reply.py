"""An HTTP reply, before it is sent."""

from __future__ import annotations

import json
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, TypeAlias

Headers: TypeAlias = tuple[tuple[bytes, bytes], ...]
Body: TypeAlias = tuple[bytes | memoryview, ...]

JSON = (b"content-type", b"application/json")
CLOSE = (b"connection", b"close")


@dataclass(frozen=True, slots=True)
class HttpReply:
    """Status, headers and the pieces of the body, without what frames them on the wire."""

    status: HTTPStatus = HTTPStatus.OK
    headers: Headers = ()
    body: Body = ()

    @property
    def size(self) -> int:
        """Bytes of the body."""
        return sum(map(len, self.body))


def error(status: HTTPStatus, message: str, headers: Headers = ()) -> HttpReply:
    """A reply that says what went wrong, in the form of the protocol."""
    return HttpReply(status, (JSON, *headers), (to_json({"error": message}),))


def to_json(value: Any) -> bytes:
    """Compact JSON in UTF-8."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogateescape")
