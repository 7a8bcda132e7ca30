"""An inference request under way: who asks, what is known of it so far, and what is told of it in the end."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from guard.audit.sighting import Sighting
from guard.tracing import Span, Trace
from guard.values import NOT_GUARDED, Decision, InferRequest
from guard.wire.ports import Screener
from guard.wire.room import Held
from guard.wire.status import Metadata

_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, by which protocol, and for how many seconds more (None: for ever). `metadata` goes to the upstream.

    `peer` is the address of the connection, with its port. `screen_only` is what the header of that name says, None
    where there is none.
    """

    name: str
    protocol: str
    remaining_s: Callable[[], float | None]
    metadata: Metadata = ()
    peer: str = ""
    screen_only: str | None = None


@dataclass(slots=True)
class Request:
    """What is known of a request so far. `marks` are the trailers of its answer; one that is watched has none.

    `screener` is the one that it began with, `model` the policy's name for what it asks for, `code` the status that its
    caller got, and `trace` is None where nothing is traced. `held` is the room that it takes, once it does.
    """

    id: str
    caller: Caller
    started_s: float = field(default_factory=time.perf_counter)
    answered_s: float | None = None
    screened_s: float | None = None
    upstream_s: float = 0.0
    model: str = ""
    screener: Screener | None = None
    decision: Decision | None = None
    infer: InferRequest | None = None
    marks: Metadata = ()
    watched: bool = False
    code: str = ""
    trace: Trace | None = None
    held: Held | None = None


def sighting_of(request: Request, decision: Decision, infer: InferRequest, duration_s: float, one_of: int) -> Sighting:
    """What the audit log keeps of a request."""
    caller = request.caller
    headers = {key.lower(): value for key, value in caller.metadata if isinstance(value, str)}
    return Sighting(
        decision,
        infer,
        client=caller.name,
        peer=caller.peer,
        protocol=caller.protocol,
        traceparent=headers.get("traceparent", ""),
        tracestate=headers.get("tracestate", ""),
        provenance=request.screener.provenance(infer) if request.screener is not None else NOT_GUARDED,
        duration_s=duration_s,
        one_of=one_of,
        client_traceparent="" if request.trace is None else request.trace.linked,
    )


def span_of(request: Request, trace: Trace, method: str) -> Span:
    """What a collector of traces is told of a request, which has ended."""
    now_ns, now_s = time.time_ns(), time.perf_counter()

    def at_ns(moment_s: float | None) -> int:
        return now_ns - round((now_s - (now_s if moment_s is None else moment_s)) * _NS)

    return Span(
        trace,
        method.removeprefix("/"),
        request.caller.protocol,
        started_ns=at_ns(request.started_s),
        ended_ns=at_ns(request.answered_s),
        model=request.model,
        request_id=request.id,
        code=request.code,
        decision=request.decision,
        screened_ns=at_ns(request.screened_s),
        upstream_s=request.upstream_s,
    )
