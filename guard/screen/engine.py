"""The engine: a continuous batch over live trials, on one thread beside the event loop.

Each turn it collects what all live trials ask for, fills one batch a backend, runs it, tells the answers, retires
what is decided and admits what waits. Nothing waits for a batch to fill.
"""

from __future__ import annotations

import hmac
import queue
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass
from typing import TypeAlias

import structlog
import torch

from guard.errors import BackendError, DeadlineExceeded, EngineStopped, GuardError, Overloaded
from guard.model.backend import Backend
from guard.screen.live import LiveItem, Stream
from guard.screen.trial import MODEL, Detector
from guard.values import FaultReason, Float32Array, Screening

_IDLE_S = 0.05
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Job:
    """An item that was handed in. `deadline` is on the monotonic clock."""

    x: Float32Array
    deadline: float | None
    future: Future[Screening]

    @property
    def expired(self) -> bool:
        return self.deadline is not None and time.monotonic() >= self.deadline


_Wanted: TypeAlias = tuple[LiveItem, Stream, int, str]


class Engine:
    """Screens items against one guarded model.

    `backends` maps a trial's backend name to a replica; MODEL is always there. `secret` seeds the noise by
    HMAC(secret, model fingerprint and input), so that a replay gets the same answer.
    """

    def __init__(
        self,
        *,
        detectors: Sequence[Detector],
        backends: Mapping[str, Backend],
        secret: bytes,
        max_queued_items: int = 256,
        max_live_items: int = 16,
    ) -> None:
        self._detectors = tuple(detectors)
        self._backends = dict(backends)
        self._bounds = {name: backend.info.bounds for name, backend in self._backends.items()}
        self._secret = secret
        self._fingerprint = self._backends[MODEL].info.fingerprint.encode()
        self._waiting: queue.Queue[_Job] = queue.Queue(max_queued_items)
        self._live: dict[LiveItem, _Job] = {}
        self._max_live_items = max_live_items
        self._stopping = threading.Event()
        self._dead = threading.Event()
        self._thread = threading.Thread(target=self._run, name="guard-engine", daemon=True)

    def start(self) -> None:
        """Start the engine thread."""
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """Stop the thread; whatever was not answered fails with EngineStopped. The backends stay the caller's.

        A replica that hangs for longer than `timeout_s` is left behind on its daemon thread.
        """
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        self._fail_all()

    @property
    def alive(self) -> bool:
        """Whether the engine thread runs and takes items."""
        return self._thread.is_alive() and not self._stopping.is_set() and not self._dead.is_set()

    @property
    def depth(self) -> int:
        """Items waiting to be admitted."""
        return self._waiting.qsize()

    def submit(self, x: Float32Array, *, deadline_s: float | None = None) -> Future[Screening]:
        """Hand in one input of the model's shape, to be screened within `deadline_s` seconds from now.

        The future may be cancelled. It fails with DeadlineExceeded if its turn never came.

        Raises:
            Overloaded: the queue is full.
            EngineStopped: the thread isn't running.
        """
        if not self.alive:
            raise EngineStopped("the screening engine isn't running")
        deadline = None if deadline_s is None else time.monotonic() + deadline_s
        future: Future[Screening] = Future()
        try:
            self._waiting.put_nowait(_Job(x, deadline, future))
        except queue.Full:
            raise Overloaded(f"{self._waiting.maxsize} items are waiting to be screened already") from None
        if self._stopping.is_set() or self._dead.is_set():  # it stopped meanwhile, and may have missed this one
            self._fail_all()
        return future

    def _run(self) -> None:
        torch.set_num_threads(1)  # of this thread: the copies are small, and the cores are shared with a server
        try:
            while not self._stopping.is_set():
                self._turn()
        except BaseException:
            _log.exception("the screening engine died")
            raise
        finally:
            self._dead.set()
            self._fail_all()

    def _turn(self) -> None:
        self._admit()
        self._retire_abandoned()
        by_backend: dict[str, list[_Wanted]] = {}
        for item in list(self._live):
            for backend, stream, count, payer in item.wanted():
                by_backend.setdefault(backend, []).append((item, stream, count, payer))
            if item.done:
                self._retire(item)
        for name, wanted in by_backend.items():
            self._evaluate(name, wanted)

    def _admit(self) -> None:
        while len(self._live) < self._max_live_items:
            try:
                job = self._waiting.get(timeout=None if self._live else _IDLE_S, block=not self._live)
            except queue.Empty:
                return
            if job.future.cancelled():
                continue
            if job.expired:
                _fail(job, DeadlineExceeded("the time allowed for screening ran out in the queue"))
                continue
            key = hmac.digest(self._secret, self._fingerprint + job.x.tobytes(), "sha256")
            item = LiveItem(torch.tensor(job.x), key, self._detectors, self._bounds)
            self._live[item] = job

    def _retire_abandoned(self) -> None:
        """Drop what nobody waits for any more before it costs anything further."""
        for item, job in list(self._live.items()):
            if job.future.cancelled():
                del self._live[item]
            elif job.expired:
                self._retire(item, FaultReason.DEADLINE)

    def _retire(self, item: LiveItem, reason: FaultReason | None = None) -> None:
        job = self._live.pop(item)
        try:
            job.future.set_result(item.close(reason))
        except InvalidStateError:  # cancelled a moment ago
            return

    def _evaluate(self, name: str, wanted: Sequence[_Wanted]) -> None:
        """Classify one batch of what is wanted, oldest item first; the rest waits for the next turn."""
        backend = self._backends[name]
        room = backend.preferred_batch
        taken: list[tuple[Stream, int]] = []
        parts = []
        for item, stream, count, payer in wanted:
            take = min(count, room)
            if take == 0:
                break
            made = stream.make(take)
            if made is None:
                continue
            parts.append(made)
            taken.append((stream, take))
            item.charge(name, payer, take)
            room -= take
        if not parts:
            return
        try:
            logits = backend.logits(torch.cat(parts))
            expected = (backend.preferred_batch - room, backend.info.classes)
            if tuple(logits.shape) != expected:
                raise BackendError(f"the replica answered shape {tuple(logits.shape)}, expected {expected}")
        except Exception as exc:  # noqa: BLE001 - whatever a replica does must cost findings, not the engine
            _log.warning("a replica failed", backend=name, model=backend.info.name, error=str(exc))
            for stream, _ in taken:
                stream.fault = FaultReason.BACKEND
            return
        for (stream, _), rows in zip(taken, torch.split(logits, [take for _, take in taken]), strict=True):
            stream.add(rows)

    def _fail_all(self) -> None:
        """Fail every item. Any thread may: it leaves the live ones in place, and what is set later comes to nothing."""
        stopped = EngineStopped("the screening engine stopped before this input was screened")
        for job in list(self._live.values()):
            _fail(job, stopped)
        while True:
            try:
                _fail(self._waiting.get_nowait(), stopped)
            except queue.Empty:
                return


def _fail(job: _Job, error: GuardError) -> None:
    try:
        job.future.set_exception(error)
    except InvalidStateError:  # cancelled a moment ago
        return
