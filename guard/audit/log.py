"""The audit log: requests are handed over on the event loop, and a thread of its own writes them."""

from __future__ import annotations

import socket
import threading
import uuid
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Protocol
from urllib.parse import quote

import structlog

from guard.audit.captures import Captures, TooLarge
from guard.audit.finding import finding_of
from guard.audit.keys import CAPTURE_KEY, PSEUDONYM_KEY, key_id, pseudonym, watch_key
from guard.audit.sampling import Sampler, is_notable
from guard.audit.segments import Segments
from guard.audit.sighting import Sighting
from guard.errors import ConfigError
from guard.recording import Audit, Outcome, Sink
from guard.tracing import TRACEPARENT, TRACESTATE
from guard.values import Decision

FOUND: Final = "dev.guard.finding.v1"
LOST: Final = "dev.guard.audit.lost.v1"
REMOVED: Final = "dev.guard.audit.removed.v1"

_TIDY_S = 60.0
_LAST_WORDS_S = 5.0
_MOST_AT_ONCE = 64
_log = structlog.get_logger(__name__)


class Counts(Protocol):
    """What is counted of evidence."""

    def audited(self, sink: Sink, outcome: Outcome, number: int = 1) -> None:
        """So many pieces of evidence were written, left out by sampling, dropped for want of room, or lost."""


class AuditLog:
    """Records requests in the settings' folder. Nothing that befalls it reaches a request.

    Raises:
        GuardError: the folder or a key can't be used.
    """

    def __init__(self, settings: Audit, counts: Counts) -> None:
        if settings.folder is None or settings.pseudonym_key_file is None:
            raise ConfigError("audit.folder needs audit.pseudonym_key_file, a file of random bytes; name both")
        self._settings, self._counts = settings, counts
        self._sampler = Sampler(settings)
        self._names = watch_key(PSEUDONYM_KEY, settings.pseudonym_key_file)
        key_file = settings.captures.key_file
        self._key = None if key_file is None else watch_key(CAPTURE_KEY, key_file)
        self._folder = settings.folder
        self._files: tuple[Segments, Captures] | None = None
        self._changed = threading.Condition()
        self._waiting: deque[Sighting] = deque()
        self._held_bytes = self._lost = 0
        self._failing = self._closing = False
        self._thread = threading.Thread(target=self._run, name="guard-audit", daemon=True)

    @property
    def nbytes(self) -> int:
        """What evidence takes on the disk."""
        return 0 if self._files is None else sum(each.nbytes for each in self._files)

    def start(self) -> None:
        """Start writing.

        Raises:
            ConfigError: the folder can't be written to, or another Guard does.
        """
        settings = self._settings
        segments = Segments(
            self._folder,
            segment_bytes=settings.segment_bytes,
            max_bytes=settings.room_bytes,
            retention_s=settings.retention_s,
            removed=_removed,
            beside=lambda: max(settings.reserved_bytes, captures.nbytes),
        )
        captures = Captures(self._folder, ttl_s=settings.captures.ttl_s, max_bytes=settings.captured_bytes)
        self._files = segments, captures
        self._thread.start()

    def close(self) -> None:
        """Write what waits, and stop. Nobody waits long for a disk that hangs."""
        if self._files is None:
            return
        with self._changed:
            self._closing = True
            self._changed.notify()
        left = -1
        while self._thread.is_alive() and left != len(self._waiting):
            left = len(self._waiting)
            self._thread.join(_LAST_WORDS_S)
        if self._thread.is_alive():
            self._gone(left)
            _log.error("the audit log's disk does not answer; what waited for it is lost", records=left)
            return
        segments, _ = self._files
        segments.close()
        _log.info("the audit log is closed", sequence=segments.last.sequence, head=segments.last.hash)

    def one_of(self, decision: Decision) -> int:
        """Of how many requests like this one is recorded, this one being it; 0 where it is not to be."""
        one_of = self._sampler.one_of(decision)
        if not one_of:
            self._counts.audited(Sink.LOG, Outcome.SAMPLED_OUT)
        return one_of

    def record(self, sighting: Sighting) -> None:
        """Have a request recorded; where too much waits already, count it instead."""
        size, settings = sighting.tensor_bytes, self._settings
        with self._changed:
            room = not self._waiting or self._held_bytes + size <= settings.max_queued_bytes
            taken = room and len(self._waiting) < settings.max_queued_events
            if taken:
                self._waiting.append(sighting)
                self._held_bytes += size
                self._changed.notify()
            else:
                self._lost += 1
        if not taken:
            self._counts.audited(Sink.LOG, Outcome.DROPPED)

    def _run(self) -> None:
        assert self._files is not None  # noqa: S101 - `start` opened them
        batch: list[Sighting] | None = []  # at first, what is there may be more than there may be now
        while batch is not None:
            try:
                self._write(batch, *self._files)
            except Exception:  # noqa: BLE001 - whatever fails is counted, and the thread goes on
                _log.exception("the audit log failed")
                self._gone(len(batch))
            with self._changed:
                self._held_bytes -= sum(each.tensor_bytes for each in batch)
            batch = self._take()

    def _take(self) -> list[Sighting] | None:
        """What waits; nothing where it is time to tidy up, and None at the end."""
        with self._changed:
            if not self._waiting and not self._closing:
                self._changed.wait(_TIDY_S)
            batch = [self._waiting.popleft() for _ in range(min(_MOST_AT_ONCE, len(self._waiting)))]
            return None if self._closing and not batch else batch

    def _write(self, batch: Sequence[Sighting], segments: Segments, captures: Captures) -> None:
        with self._changed:
            lost, self._lost = self._lost, 0
        events = [self._event(each, captures) for each in batch]
        lost_too = [_event(LOST, {"records": lost})] if lost else []
        written = self._append([*lost_too, *events], segments, captures)
        if not written:
            with self._changed:
                self._lost += lost
        written = max(0, written - len(lost_too))
        if written:
            self._counts.audited(Sink.LOG, Outcome.WRITTEN, written)
        if written < len(batch):
            for reference in (event.get("dataref") for event in events[written:]):
                if reference is not None:
                    captures.forget(reference)
            self._gone(len(batch) - written)

    def _append(self, events: Sequence[Mapping[str, Any]], segments: Segments, captures: Captures) -> int:
        """Write events: how many are on the disk."""
        try:
            captures.expire()
            segments.expire()
            written = segments.append(events)
        except OSError as exc:
            if not self._failing:
                _log.error("the audit log can't be written; records are lost, and counted", problem=exc.strerror)
            self._failing = True
            return 0
        if self._failing and events:
            self._failing = False
            _log.info("the audit log can be written again")
        return written

    def _gone(self, number: int) -> None:
        with self._changed:
            self._lost += number
        self._counts.audited(Sink.LOG, Outcome.FAILED, number)

    def _event(self, sighting: Sighting, captures: Captures) -> dict[str, Any]:
        key = self._names.current()
        name = {"pseudonym": pseudonym(key, sighting.client), "key": key_id(key)}
        more: dict[str, Any] = {"sampledrate": sighting.one_of, "subject": sighting.decision.model}
        if TRACEPARENT.fullmatch(sighting.traceparent):
            more["traceparent"] = sighting.traceparent
            if TRACESTATE.fullmatch(sighting.tracestate):
                more["tracestate"] = sighting.tracestate
        data = finding_of(sighting, pseudonym=name, peer=self._settings.peers, trace=more.get("traceparent", ""))
        more |= self._capture(sighting, captures)
        return _event(FOUND, data, uid=sighting.decision.id, seen_s=sighting.seen_s, **more)

    def _capture(self, sighting: Sighting, captures: Captures) -> Mapping[str, Any]:
        """Where the input is kept, and until when; nothing where it is not."""
        if self._key is None or not is_notable(sighting.decision):
            return {}
        try:
            reference, expires_s = captures.keep(sighting.decision.id, sighting.request, self._key.current())
        except TooLarge:
            self._counts.audited(Sink.CAPTURES, Outcome.DROPPED)
            return {}
        except OSError:
            self._counts.audited(Sink.CAPTURES, Outcome.FAILED)
            return {}
        self._counts.audited(Sink.CAPTURES, Outcome.WRITTEN)
        return {"dataref": reference, "expirytime": _time(expires_s), "dataclassification": "confidential"}


def _removed(names: Sequence[str], last: str) -> dict[str, Any]:
    _log.info("segments of the audit log were removed", segments=len(names), last=names[-1], head=last)
    return _event(REMOVED, {"segments": list(names), "lasthash": last})


def _event(
    kind: str, data: Mapping[str, Any], *, uid: str = "", seen_s: float | None = None, **more: Any
) -> dict[str, Any]:
    """A CloudEvent (1.0), without its place in the chain."""
    return {
        "specversion": "1.0",
        "type": kind,
        "source": f"urn:guard:{quote(socket.gethostname())}",
        "id": uid or uuid.uuid4().hex,
        "time": _time(seen_s),
        "datacontenttype": "application/json",
        **more,
        "data": dict(data),
    }


def _time(at_s: float | None) -> str:
    moment = datetime.now(UTC) if at_s is None else datetime.fromtimestamp(at_s, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
