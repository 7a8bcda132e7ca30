"""The form of a line: a CloudEvent that carries the hash of the line before it, and at its end its own.

Whoever changes a byte breaks the line's own hash; whoever mends that breaks the next line's; and whoever mends all of
them ends with another last hash than the one that Guard told its log.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

GENESIS: Final = "0" * 64
"""What the first line of a log has in place of the hash of the line before."""

SEQUENCE_DIGITS: Final = 12
WHOLE: Final = re.compile(rb',"hash":"[0-9a-f]{64}"}')
"""In a line that lost its end, but nothing else: no writer that was interrupted leaves that."""

_MARK = b',"hash":"'
_END = b'"}'


@dataclass(frozen=True, slots=True)
class Link:
    """Where a chain stands: the number of its last line, and its hash."""

    sequence: int = 0
    hash: str = GENESIS


def write(event: Mapping[str, Any], before: Link) -> tuple[bytes, Link]:
    """An event as the line that follows another."""
    sequence = before.sequence + 1
    linked = {**event, "sequence": f"{sequence:0{SEQUENCE_DIGITS}d}", "prevhash": before.hash}
    body = json.dumps(linked, separators=(",", ":"), allow_nan=False).encode()[:-1]
    own = hashlib.sha256(body).hexdigest()
    return body + _MARK + own.encode() + _END + b"\n", Link(sequence, own)


@dataclass(frozen=True, slots=True)
class Line:
    """A line that was read: `sound` if its own hash is right."""

    event: Mapping[str, Any]
    link: Link
    before: str
    sound: bool


def read(line: bytes) -> Line | None:
    """Read a line, without its end; None if it is none of this log."""
    body, mark, tail = line.rpartition(_MARK)
    try:
        event = json.loads(line)
        link = Link(int(event["sequence"]), event["hash"])
        before = event["prevhash"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    sound = bool(mark) and tail == link.hash.encode() + _END and hashlib.sha256(body).hexdigest() == link.hash
    return Line(event, link, before, sound)
