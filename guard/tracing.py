"""Which trace a request belongs to (W3C Trace Context), and what is counted of traces.

Below the wire, which tells the guarded server, and the audit log, which keeps it. Nothing of OpenTelemetry is here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from guard.values import Decision

TRACEPARENT: Final = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f]{2}")
TRACESTATE: Final = re.compile(r"[\x20-\x7e]{1,512}")

HEADERS: Final = frozenset({"traceparent", "tracestate", "grpc-trace-bin"})
"""What names a trace, and asks for it to be recorded. The last is OpenCensus's, in binary."""


class Exported(StrEnum):
    """What became of a span. A closed set: it labels a metric."""

    SENT = "sent"
    DROPPED = "dropped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Trace:
    """The place of a span among traces. Guard drew the ids, and decided whether it is recorded (`sampled`).

    `parent_id` is 0 where the span has no parent. `linked` is the client's own traceparent, "" where it said none that
    is valid.
    """

    trace_id: int
    span_id: int
    sampled: bool
    parent_id: int = 0
    linked: str = ""

    @property
    def traceparent(self) -> str:
        """What the guarded server is told."""
        return f"00-{self.trace_id:032x}-{self.span_id:016x}-{self.sampled:02x}"

    def told_in(self, metadata: Iterable[Any]) -> tuple[Any, ...]:
        """Metadata with this trace in place of what a client said of one."""
        kept = (pair for pair in metadata if pair[0].lower() not in HEADERS)
        return (*kept, ("traceparent", self.traceparent))


@dataclass(frozen=True, slots=True)
class Span:
    """A request that ended, or a stream of them. Times are Unix times; `screened_ns` is 0 where nothing was screened.

    `code` is the gRPC status that its caller got, "" where it got none.
    """

    trace: Trace
    method: str
    protocol: str
    started_ns: int
    ended_ns: int
    model: str = ""
    request_id: str = ""
    code: str = ""
    decision: Decision | None = None
    screened_ns: int = 0
    upstream_s: float = 0.0


def linked_in(metadata: Iterable[Any]) -> str:
    """The traceparent in a client's metadata, "" where there is none that is valid."""
    for key, value in metadata:
        if key.lower() == "traceparent" and isinstance(value, str) and TRACEPARENT.fullmatch(value):
            return value
    return ""
