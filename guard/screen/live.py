"""One item while it is screened: its streams of copies, its trials, and what they wait for."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import structlog
import torch
from jaxtyping import Float
from torch import Tensor

from guard.profile.spec import Mutation
from guard.screen.mutations import Bounds, copies
from guard.screen.trial import ITSELF, MODEL, Detector, Probes, Trial
from guard.values import Fault, FaultReason, Finding, Screening

LABEL = "label"
"""What the evaluation of the unchanged input is charged to."""

_log = structlog.get_logger(__name__)


class Stream:
    """An item's copies under one mutation for one backend: made in order, classified once, kept for every trial."""

    def __init__(self, mutation: Mutation, x: Float[Tensor, "*dims"], key: bytes, bounds: Bounds) -> None:
        self._mutation = mutation
        self._x = x
        self._bounds = bounds
        # A counter-based generator with a 128-bit key: torch's CPU generator keeps only 32 bits of its seed.
        digest = hashlib.sha256(key + mutation.model_dump_json().encode()).digest()
        self._rng = np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))
        self._logits: list[Float[Tensor, " classes"]] = []
        self.fault: FaultReason | None = None

    @property
    def known(self) -> int:
        """Copies classified so far."""
        return len(self._logits)

    def make(self, count: int) -> Float[Tensor, "{count} *dims"] | None:
        """The next `count` copies; None, and a fault, if they can't be made. Made once, so they must be classified."""
        try:
            return copies(self._mutation, self._x, count, self._rng, self._bounds)
        except Exception:  # noqa: BLE001 - a mutation's bug must cost its findings, not the engine
            _log.exception("a copy could not be made", mutation=self._mutation.kind)
            self.fault = FaultReason.DETECTOR
            return None

    def add(self, logits: Float[Tensor, "count classes"]) -> None:
        """Take the logits of the copies made last."""
        if not bool(torch.isfinite(logits).all()):
            self.fault = FaultReason.NON_FINITE_OUTPUT
        self._logits.extend(logits)

    def answer(self, probes: Probes) -> Float[Tensor, "count classes"]:
        """Logits of copies that are all known."""
        return torch.stack(self._logits[probes.start : probes.start + probes.count])


@dataclass(slots=True)
class _Running:
    """A trial, opened on first use, and what it waits for."""

    detector: Detector
    trial: Trial | None = None
    waiting: list[Probes] = field(default_factory=list)
    finding: Finding | None = None

    @property
    def name(self) -> str:
        return self.detector.name

    def opened(self) -> Trial:
        self.trial = self.trial or self.detector.open()
        return self.trial


class LiveItem:
    """One item under all configured detectors."""

    def __init__(
        self, x: Float[Tensor, "*dims"], key: bytes, detectors: Sequence[Detector], bounds: Mapping[str, Bounds]
    ) -> None:
        self._x = x
        self._key = key
        self._bounds = bounds
        self._opened_at = time.monotonic()
        self._streams: dict[tuple[str, Mutation], Stream] = {}
        self._running = [_Running(detector) for detector in detectors]
        self._spent: dict[str, int] = {}

    def wanted(self) -> list[tuple[str, Stream, int, str]]:
        """Copies still to classify: (backend, stream, count, who pays), the stream's next ones each time.

        Asks every idle trial first, and tells those whose copies are all known until none moves any more.
        """
        self._settle_known()
        wanted = []
        for key, stream in self._streams.items():
            asked = [
                (probes.start + probes.count, running.name)
                for running in self._running
                for probes in running.waiting
                if (probes.backend, probes.mutation) == key
            ]
            end = max((end for end, _ in asked), default=0)
            if end > stream.known:
                payer = LABEL if key == (MODEL, ITSELF.mutation) else next(who for e, who in asked if e > stream.known)
                wanted.append((key[0], stream, end - stream.known, payer))
        return wanted

    @property
    def done(self) -> bool:
        """Whether every trial has its finding."""
        return all(running.finding is not None for running in self._running)

    def charge(self, backend: str, payer: str, count: int) -> None:
        """Account for evaluations of the guarded model; a detector's own network costs none."""
        if backend == MODEL:
            self._spent[payer] = self._spent.get(payer, 0) + count

    def close(self, reason: FaultReason | None = None) -> Screening:
        """The findings; trials cut short by `reason` fault with it, so that they can't pass for looked and clean.

        What is decided by answers that are in already counts as decided.
        """
        self._settle_known()
        for running in self._running:
            if running.finding is None:
                self._settle(running, Fault(running.name, reason or FaultReason.DETECTOR))
        itself = self._streams.get((MODEL, ITSELF.mutation))
        known = itself is not None and itself.known > 0 and itself.fault is None
        label = int(itself.answer(ITSELF)[0].argmax()) if itself is not None and known else None
        findings = tuple(running.finding for running in self._running if running.finding is not None)
        return Screening(label=label, findings=findings, spent=dict(self._spent))

    def _settle_known(self) -> None:
        while any(self._advance(running) for running in self._running if running.finding is None):
            pass

    def _advance(self, running: _Running) -> bool:
        """Move one trial as far as known answers allow; whether it moved."""
        try:
            if not running.waiting:
                running.waiting = list(running.opened().ask())
                if not running.waiting:
                    self._settle(running, running.opened().finding())
                    return True
                for probes in running.waiting:  # open them all, so that one turn serves all that was asked for
                    self._stream(probes)
            return self._tell(running)
        except Exception:  # noqa: BLE001 - a detector's bug must cost that detector's finding, not the engine
            _log.exception("detector failed", detector=running.name)
            self._settle(running, Fault(running.name, FaultReason.DETECTOR))
            return True

    def _tell(self, running: _Running) -> bool:
        moved = False
        while running.waiting:
            probes = running.waiting[0]
            stream = self._stream(probes)
            if stream.fault is not None:
                self._settle(running, Fault(running.name, stream.fault, min(stream.known, probes.start)))
                return True
            if stream.known < probes.start + probes.count:
                return moved
            running.opened().tell(probes, stream.answer(probes))
            running.waiting.pop(0)
            moved = True
        return moved

    def _settle(self, running: _Running, finding: Finding) -> None:
        running.waiting.clear()
        running.finding = replace(finding, duration_s=time.monotonic() - self._opened_at)

    def _stream(self, probes: Probes) -> Stream:
        key = (probes.backend, probes.mutation)
        if key not in self._streams:
            self._streams[key] = Stream(probes.mutation, self._x, self._key, self._bounds[probes.backend])
        return self._streams[key]
