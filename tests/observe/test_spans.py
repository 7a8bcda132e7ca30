"""Spans on their way to a collector: never waited for, bounded, and counted where they are lost."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from guard.errors import ConfigError
from guard.observe.otlp import OtlpCollector
from guard.observe.spans import Tracer
from guard.tracing import Exported, Span, Trace
from tests.support.certificates import Authority
from tests.support.otlp import receiving
from tests.support.waiting import wait_for

TRACED = (("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),)


class Counted:
    """Counts what is reported of spans."""

    def __init__(self) -> None:
        self.of: Counter[Exported] = Counter()

    def traced(self, outcome: Exported, number: int = 1) -> None:
        """Count."""
        self.of[outcome] += number


@contextmanager
def tracing(
    address: str, *, ratio: float = 1.0, room: int = 100, timeout_s: float = 10.0, **tls: Any
) -> Iterator[tuple[Tracer, Counted]]:
    """A tracer that sends to an address, closed at the end."""
    counted = Counted()
    collector = OtlpCollector(address, **({"tls": False, "ca_file": None} | tls), timeout_s=timeout_s)
    tracer = Tracer(collector, counted, sample_ratio=ratio, max_queued_spans=room)
    tracer.start()
    try:
        yield tracer, counted
    finally:
        tracer.close()


def span(trace: Trace | None = None) -> Span:
    """A span of a moment."""
    now_ns = time.time_ns()
    return Span(trace or Trace(1, 2, sampled=True), "m", "grpc", started_ns=now_ns - 1000, ended_ns=now_ns)


@pytest.mark.parametrize(
    "said", [(), TRACED, (("traceparent", "00-ab-cd-01"),)], ids=["nothing", "sampled", "nonsense"]
)
def test_guard_decides_what_is_sampled(said: tuple[Any, ...]) -> None:
    """The share of traces that is sampled is the policy's, whatever clients say; ids are drawn anew each time."""
    with tracing("127.0.0.1:1", ratio=0.25) as (tracer, _):
        drawn = [tracer.begin(said) for _ in range(4000)]
    # 4000 draws at 0.25: six standard deviations are 0.041
    assert sum(each.sampled for each in drawn) / len(drawn) == pytest.approx(0.25, abs=0.041)
    assert len({each.trace_id for each in drawn}) == len({each.span_id for each in drawn}) == len(drawn)
    assert {each.linked for each in drawn} == {TRACED[0][1] if said == TRACED else ""}


def test_what_the_server_is_told() -> None:
    """Guard's trace replaces all that a client said of one, also in the binary form that asks for sampling."""
    said = (*TRACED, ("tracestate", "a=b"), ("grpc-trace-bin", b"\x00"), ("x", "y"))
    assert Trace(0xAB, 0xCD, sampled=False).told_in(said) == (
        ("x", "y"),
        ("traceparent", f"00-{0xAB:032x}-{0xCD:016x}-00"),
    )


def test_a_full_queue_drops_and_counts() -> None:
    """While the collector hangs, as many spans wait as may, the rest is dropped and counted, and nobody waits."""
    with receiving() as receiver:
        receiver.answers.clear()
        with tracing(receiver.address, room=10) as (tracer, counted):
            tracer.finished(span())
            assert receiver.asked.wait(30)
            for _ in range(25):
                tracer.finished(span())
            assert counted.of == {Exported.DROPPED: 15}
            receiver.answers.set()
            wait_for(lambda: counted.of[Exported.SENT] == 11)
        assert len(receiver.spans()) == 11


def test_a_dead_collector_costs_its_spans_and_no_more() -> None:
    """Spans that nobody takes are counted, and later ones arrive once somebody does."""
    with tracing("127.0.0.1:1", timeout_s=0.2) as (tracer, counted):
        for _ in range(3):
            tracer.finished(span())
        wait_for(lambda: counted.of[Exported.FAILED] == 3)
    assert counted.of == {Exported.FAILED: 3}


def test_what_waits_is_sent_at_the_end() -> None:
    """Closing sends what waits; what comes after is dropped, and counted."""
    with receiving() as receiver:
        with tracing(receiver.address) as (tracer, counted):
            tracer.finished(span())
        assert len(receiver.spans()) == 1
        tracer.finished(span())
    assert counted.of == {Exported.SENT: 1, Exported.DROPPED: 1}


def test_tls_and_headers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A collector with TLS is checked against the CA file, and gets the headers that OpenTelemetry's variable names."""
    authority = Authority()
    pair = authority.issue("localhost")
    (tmp_path / "ca.pem").write_bytes(authority.certificate)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20x")
    credentials = grpc.ssl_server_credentials([(pair.key, pair.certificate)])
    with receiving(credentials) as receiver:
        with tracing(receiver.address, tls=True, ca_file=tmp_path / "ca.pem") as (tracer, counted):
            tracer.finished(span())
            wait_for(lambda: counted.of[Exported.SENT] == 1)
        assert receiver.headers["authorization"] == "Bearer x"


def test_a_ca_file_that_is_not_there(tmp_path: Path) -> None:
    """It is told by the setting's name."""
    with pytest.raises(ConfigError, match=r"tracing\.ca_file"):
        OtlpCollector("127.0.0.1:1", tls=True, ca_file=tmp_path / "none", timeout_s=1.0)
