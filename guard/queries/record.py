"""A remembered query as bytes, as it stands in the store: written and understood by replicas with the same key only.

It holds a fingerprint and keyed names, never what a client sent. The tag at its end is keyed too, so who can write to
the store, but has not the secret, can neither invent queries nor change any.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from dataclasses import dataclass
from typing import Final

import numpy as np

from guard.queries.fingerprint import WORDS
from guard.queries.memory import Query

ORIGIN_BYTES: Final = 8
_TAG_BYTES = 16
_FIELDS = struct.Struct(f">{ORIGIN_BYTES}sQQQ{WORDS * 8}s")
_MS = 1000


@dataclass(frozen=True, slots=True)
class Record:
    """A query, which replica saw it, and how long before the record was written."""

    query: Query
    origin: bytes
    age_s: float


class Seal:
    """Writes and reads the records of one model. `stream` is the name under which the store has them."""

    def __init__(self, key: bytes) -> None:
        self.stream = f"guard:queries:{hmac.digest(key, b'stream', 'sha256')[:16].hex()}"
        self._key = hmac.digest(key, b"seal", "sha256")

    def write(self, record: Record) -> bytes:
        """A record as bytes."""
        query, age_ms = record.query, round(record.age_s * _MS)
        fields = _FIELDS.pack(record.origin, age_ms, query.exact, query.client, query.print.tobytes())
        return fields + self._tag(fields)

    def read(self, content: bytes) -> Record | None:
        """The record in these bytes; None if nobody with this key wrote them."""
        fields, tag = content[:-_TAG_BYTES], content[-_TAG_BYTES:]
        if len(fields) != _FIELDS.size or not hmac.compare_digest(tag, self._tag(fields)):
            return None
        origin, age_ms, exact, client, bits = _FIELDS.unpack(fields)
        return Record(Query(np.frombuffer(bits, np.uint64), exact, client), origin, age_ms / _MS)

    def _tag(self, fields: bytes) -> bytes:
        return hashlib.blake2b(fields, digest_size=_TAG_BYTES, key=self._key).digest()
