"""Spans in OpenTelemetry's own words, sent by its own exporter (OTLP over gRPC).

Source: OpenTelemetry's semantic conventions for RPC (`rpc.*`); what they have no name for is `guard.*`.
"""

from __future__ import annotations

import logging
import platform
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, TypeAlias

import grpc
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, TraceFlags
from opentelemetry.trace.status import Status, StatusCode

from guard import __version__
from guard.errors import ConfigError
from guard.tracing import TRACEPARENT, Span, Trace
from guard.values import Abstention, Certified, Decision, Evidence, Fault, Finding, Probing, SharedPerturbation, Spared

MOST_EVENTS: Final = 128
"""Detectors' findings that a span tells of, those of the items with the request's verdict first."""

_NS = 1_000_000_000
_SERVER_ERRORS = frozenset(
    {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
)  # those that are a server's fault, as the conventions have it
_SCOPE = InstrumentationScope("guard", __version__)
_Value: TypeAlias = str | bool | int | float


class OtlpCollector:
    """A collector that speaks OTLP over gRPC.

    `OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_RESOURCE_ATTRIBUTES` and `OTEL_SERVICE_NAME` mean what they mean everywhere.

    Raises:
        ConfigError: the CA file can't be read.
    """

    def __init__(self, address: str, *, tls: bool, ca_file: Path | None, timeout_s: float) -> None:
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL + 1)  # Guard counts and says it, without addresses
        credentials = None
        if tls:
            credentials = grpc.ssl_channel_credentials(None if ca_file is None else _read(ca_file))
        self._exporter = OTLPSpanExporter(
            endpoint=address, insecure=not tls, credentials=credentials, timeout=timeout_s
        )
        named = {"service.name": "guard", "service.version": __version__, "host.name": platform.node()}
        self._resource = Resource(named).merge(OTELResourceDetector().detect())

    def send(self, spans: Sequence[Span]) -> bool:
        """Send spans, and wait until they are taken. Whether they are."""
        return self._exporter.export([self._read(each) for each in spans]) is SpanExportResult.SUCCESS

    def close(self) -> None:
        """Give up what is being sent, and close the connection."""
        self._exporter.shutdown()

    def _read(self, span: Span) -> ReadableSpan:
        trace = span.trace
        failed = span.code in _SERVER_ERRORS
        return ReadableSpan(
            name=span.method,
            context=_context(trace.trace_id, trace.span_id, sampled=trace.sampled),
            parent=_context(trace.trace_id, trace.parent_id, sampled=trace.sampled) if trace.parent_id else None,
            resource=self._resource,
            attributes=dict(_attributes(span)),
            events=list(_events(span)),
            links=list(_links(trace)),
            kind=SpanKind.SERVER,
            instrumentation_scope=_SCOPE,
            status=Status(StatusCode.ERROR if failed else StatusCode.UNSET),
            start_time=span.started_ns,
            end_time=span.ended_ns,
        )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise ConfigError(f"tracing.ca_file {path} can't be read ({exc.strerror}); correct it") from exc


def _context(trace_id: int, span_id: int, *, sampled: bool, remote: bool = False) -> SpanContext:
    return SpanContext(trace_id, span_id, remote, TraceFlags(TraceFlags.SAMPLED if sampled else TraceFlags.DEFAULT))


def _links(trace: Trace) -> Iterator[Link]:
    """To the client's trace: its word, which Guard's trace doesn't rest on."""
    if told := TRACEPARENT.fullmatch(trace.linked):
        yield Link(_context(int(told[1], 16), int(told[2], 16), sampled=False, remote=True), {"guard.link": "client"})


def _attributes(span: Span) -> Iterator[tuple[str, _Value]]:
    service, _, method = span.method.rpartition("/")
    yield from {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method}.items()
    yield from {"guard.protocol": span.protocol, "guard.request_id": span.request_id, "guard.model": span.model}.items()
    yield "guard.upstream_s", span.upstream_s
    if span.code:
        yield "rpc.grpc.status_code", grpc.StatusCode[span.code].value[0]
    if (decision := span.decision) is not None:
        yield from _of_decision(decision)


def _of_decision(decision: Decision) -> Iterator[tuple[str, _Value]]:
    told = {"verdict": decision.verdict, "intended": decision.intended, "decision": decision.action}
    yield from {f"guard.{name}": str(value) for name, value in {**told, "mode": decision.mode}.items()}.items()
    yield from {"guard.items": len(decision.items), "guard.evaluations": sum(decision.spent.values())}.items()
    if decision.p_value is not None:
        yield "guard.p_value", decision.p_value
    if decision.reason is not None:
        yield "guard.reason", str(decision.reason)


def _events(span: Span) -> Iterator[Event]:
    """When each detector had found what it found.

    Detectors measure from the start of an item's screening. That the item that took longest was the last is taken for
    granted, so in a batch the others' events may be late; `guard.duration_s` is exact.
    """
    if span.decision is None:
        return
    items, culprits = span.decision.items, set(span.decision.culprits)
    order = sorted(range(len(items)), key=lambda index: index not in culprits)
    found = [(index, f) for index in order for f in items[index].findings if not isinstance(f, Spared)][:MOST_EVENTS]
    longest_s = max((finding.duration_s for _, finding in found), default=0.0)
    for index, finding in found:
        at_ns = span.screened_ns - round((longest_s - finding.duration_s) * _NS)
        yield Event(finding.detector, {"guard.item": index, **_said(finding)}, at_ns)


def _said(finding: Finding) -> Mapping[str, _Value]:
    said: dict[str, _Value] = {
        "guard.finding": type(finding).__name__.lower(),
        "guard.duration_s": finding.duration_s,
        "guard.evaluations": finding.evaluations,
    }
    match finding:
        case Evidence(p_value=p_value) if p_value is not None:
            said["guard.p_value"] = p_value
        case Certified(certificate=proved):
            said["guard.radius"] = proved.radius
        case Abstention(why=why):
            said["guard.why"] = why
        case Fault(reason=reason):
            said["guard.why"] = str(reason)
        case Probing(suspicious=suspicious):
            said["guard.suspicious"] = suspicious
        case SharedPerturbation(shared_with=others):
            said["guard.shared_with"] = others
    return said
