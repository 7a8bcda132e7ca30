"""What is recorded of a request."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from guard.values import Decision, InferRequest, Provenance


@dataclass(frozen=True, slots=True)
class Sighting:
    """A request, with the decision about it, as the wire saw them.

    `traceparent` and `tracestate` are the client's own words, "" where it said none. Where Guard traces, `traceparent`
    is Guard's, and the client's is in `client_traceparent`. It stands for `one_of` requests like it. The tensors are
    views on the message, which stays in memory for as long as they do.
    """

    decision: Decision
    request: InferRequest
    client: str
    peer: str
    protocol: str
    traceparent: str
    tracestate: str
    provenance: Provenance
    duration_s: float
    one_of: int
    client_traceparent: str = ""
    seen_s: float = field(default_factory=time.time)

    @property
    def tensor_bytes(self) -> int:
        """Bytes of its tensors."""
        return sum(_size(each.raw) + (0 if each.typed is None else each.typed.nbytes) for each in self.request.inputs)


def _size(raw: memoryview | None) -> int:
    return 0 if raw is None else raw.nbytes
