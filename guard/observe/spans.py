"""Traces: drawn on the event loop, handed over to a thread of its own, which tells the collector.

It is imported only where the policy has a collector. No request waits for one, and what it does not take is counted.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, Final, Protocol

import structlog

from guard.tracing import Exported, Span, Trace, linked_in

_DRAWN_BYTES = 24
_SPAN_ID_BYTES = 8
_SPAN_IDS = 2**64 - 1
_SAMPLED_FROM: Final = 2**56
"""Of a trace's id, the 56 bits that W3C's level 2 has random, and OpenTelemetry samples by."""

_MOST_AT_ONCE = 512
_GATHER_S = 0.5
"""How long the first span of a batch waits for others."""

_LAST_WORDS_S = 5.0
_log = structlog.get_logger(__name__)


class Collector(Protocol):
    """Where spans are sent. Called on one thread."""

    def send(self, spans: Sequence[Span]) -> bool:
        """Send spans, and wait until they are taken. Whether they are."""

    def close(self) -> None:
        """Give up what is being sent, and close the connection. For any thread."""


class Counts(Protocol):
    """What is counted of spans."""

    def traced(self, outcome: Exported, number: int = 1) -> None:
        """So many spans were sent, dropped because too many waited, or not taken by the collector."""


class Tracer:
    """Draws traces, of which the share `sample_ratio` is recorded, whatever clients ask for."""

    def __init__(self, collector: Collector, counts: Counts, *, sample_ratio: float, max_queued_spans: int) -> None:
        self._collector, self._counts = collector, counts
        self._sampled_below = round(sample_ratio * _SAMPLED_FROM)
        self._max_queued_spans = max_queued_spans
        self._waiting: deque[Span] = deque()
        self._changed = threading.Condition()
        self._closing = self._failing = False
        self._thread = threading.Thread(target=self._run, name="guard-traces", daemon=True)

    def begin(self, metadata: Iterable[Any], within: Trace | None = None) -> Trace:
        """A new trace, linked to the one that a client's metadata tell of; or a span `within` a trace."""
        drawn = int.from_bytes(os.urandom(_DRAWN_BYTES))
        span_id = (drawn & _SPAN_IDS) or 1
        if within is not None:
            return Trace(within.trace_id, span_id, within.sampled, within.span_id, within.linked)
        trace_id = (drawn >> (8 * _SPAN_ID_BYTES)) or 1
        return Trace(trace_id, span_id, trace_id % _SAMPLED_FROM < self._sampled_below, linked=linked_in(metadata))

    def finished(self, span: Span) -> None:
        """Have a span sent; where too many wait already, count it instead."""
        with self._changed:
            taken = len(self._waiting) < self._max_queued_spans and not self._closing
            if taken:
                self._waiting.append(span)
                self._changed.notify()
        if not taken:
            self._counts.traced(Exported.DROPPED)

    def start(self) -> None:
        """Start sending."""
        self._thread.start()

    def close(self) -> None:
        """Send what waits, and stop. Nobody waits long for a collector that does not answer."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join(_LAST_WORDS_S)
        self._collector.close()
        if self._thread.is_alive():
            self._thread.join(_LAST_WORDS_S)
        if self._waiting:
            self._counts.traced(Exported.FAILED, len(self._waiting))

    def _run(self) -> None:
        while batch := self._take():
            try:
                sent = self._collector.send(batch)
            except Exception:  # noqa: BLE001 - whatever fails is counted, and the thread goes on
                _log.exception("spans could not be sent")
                sent = False
            self._counts.traced(Exported.SENT if sent else Exported.FAILED, len(batch))
            if sent is self._failing:
                self._failing = not sent
                if sent:
                    _log.info("the collector of traces takes spans again")
                else:
                    _log.warning("the collector of traces takes no spans; they are lost, and counted")

    def _take(self) -> list[Span]:
        """What waits, with what comes within a moment; nothing at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing)
            self._changed.wait_for(lambda: len(self._waiting) >= _MOST_AT_ONCE or self._closing, _GATHER_S)
            return [self._waiting.popleft() for _ in range(min(_MOST_AT_ONCE, len(self._waiting)))]
