"""One item while it is screened: its trials, and what they wait for."""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Sequence
from typing import NamedTuple, TypeAlias

import structlog
from torch import Tensor

from guard.screen.stream import Stream
from guard.screen.trial import ITSELF, MODEL, Answers, Detector, Probes, SequentialTrial, Source, Trial
from guard.values import Fault, FaultReason, Finding, Float32Array, Screening, Spared

LABEL = "label"
"""What the evaluation of the unchanged input is charged to."""

Decided: TypeAlias = Callable[[Sequence[Finding]], bool]
"""Whether the verdict on an item with this label can't change any more, whatever is found beyond these findings."""

Stages: TypeAlias = Sequence[Sequence[tuple[int, Detector]]]
"""Detectors with their place among the findings, those that begin together together."""

_log = structlog.get_logger(__name__)


class Share(NamedTuple):
    """What one stream wants, or gets, of a batch: its next copies."""

    item: LiveItem
    stream: Stream
    copies: int


class _Asking:
    """A trial that is told what it asked for, and what it waits for."""

    __slots__ = ("index", "name", "trial", "waiting")

    def __init__(self, index: int, name: str, trial: Trial) -> None:
        self.index = index
        self.name = name
        self.trial = trial
        self.waiting: list[Probes] = []


class LiveItem:
    """One item under all configured detectors, stage by stage; `decided`, if given, may spare it the later stages."""

    __slots__ = (
        "_asking",
        "_backends",
        "_decided",
        "_findings",
        "_opened_at",
        "_spent",
        "_stage",
        "_stages",
        "_streams",
        "_walking",
        "decision_id",
        "done",
        "label",
        "nonce",
        "on_device",
        "x",
    )

    def __init__(
        self,
        x: Float32Array,
        nonce: bytes,
        stages: Stages,
        backends: Container[str],
        *,
        decided: Decided | None = None,
        decision_id: str = "",
    ) -> None:
        self.x = x
        self.nonce = nonce
        self.decision_id = decision_id
        self.label: int | None = None
        """The model's own label of the input, once it was asked."""
        self.on_device: Tensor | None = None
        """The input on the replica's device, once it was uploaded."""
        self.done = False
        """Whether every detector has its finding."""
        self._backends = backends
        self._decided = decided
        self._stages = stages
        self._stage = 0
        self._findings: list[Finding | None] = [None] * sum(map(len, stages))
        self._asking: list[_Asking] = []
        self._walking = 0
        self._streams: dict[Source, Stream] = {}
        self._spent: dict[str, int] = {}
        self._opened_at = time.monotonic()
        self.advance()

    def wants(self, backend: str) -> list[Share]:
        """The copies that are still wanted of a backend."""
        return [
            Share(self, stream, stream.wanted - stream.sent)
            for stream in self._streams.values()
            if stream.wanted > stream.sent and stream.source.backend == backend and stream.fault is None
        ]

    def sent(self, stream: Stream, copies: int) -> None:
        """A stream's next copies are on their way, and cost evaluations whatever comes of them."""
        if stream.fault is None:
            if stream.source.backend == MODEL:
                self._charge(stream, copies)
            stream.sent += copies

    def take(self, stream: Stream, answers: Answers) -> None:
        """Take the answers about a stream's next copies; sequential trials move at once."""
        stream.known += len(answers.logits)
        stream.parts.append(answers)
        if stream.walks:
            before = len(stream.walks)
            stream.walks = [walk for walk in stream.walks if not self._walked(stream, walk, answers)]
            if not stream.shown:  # what is left of a chunk whose trial came to its end in the first part is not bought
                stream.wanted = max([stream.sent, *(trial.wanted for _, _, trial in stream.walks)])
            self._walking -= before - len(stream.walks)

    def fail(self, stream: Stream, reason: FaultReason) -> None:
        """A stream's next copies could not be made, or not classified."""
        stream.fault = reason
        # Without the input's own label nothing can be said about its mutants either.
        for each in self._streams.values() if stream.source is ITSELF.source else (stream,):
            for index, name, _ in each.walks:
                self._findings[index] = Fault(name, reason, each.known, self._age_s())
            self._walking -= len(each.walks)
            each.walks = []

    def advance(self) -> None:
        """Move the trials that ask as far as the answers allow, and begin the next stage where one is over."""
        while True:
            if self._asking:
                self._asking = [asking for asking in self._asking if not self._moved_to_its_end(asking)]
            if self._asking or self._walking or self.done:
                return
            self._begin_next_stage()

    def close(self, reason: FaultReason | None = None) -> Screening:
        """The findings; trials cut short by `reason` fault with it, so that they can't pass for looked and clean."""
        if not self.done:
            for stage in self._stages:
                for index, detector in stage:
                    if self._findings[index] is None:
                        self._findings[index] = Fault(
                            detector.name, reason or FaultReason.DETECTOR, duration_s=self._age_s()
                        )
        findings = tuple(finding for finding in self._findings if finding is not None)
        return Screening(label=self.label, findings=findings, spent=self._spent)

    def _charge(self, stream: Stream, copies: int) -> None:
        """Account for evaluations of the guarded model; a detector's own network costs none."""
        start, stop = stream.sent, stream.sent + copies
        for end, who in stream.claims:
            paid = min(end, stop) - start
            if paid > 0:
                self._spent[who] = self._spent.get(who, 0) + paid
                start += paid

    def _begin_next_stage(self) -> None:
        if self._stage == len(self._stages) or self._spared():
            self.done = True
            return
        stage = self._stages[self._stage]
        self._stage += 1
        for index, detector in stage:
            try:
                trial = detector.open()
                if isinstance(trial, SequentialTrial):
                    self._join(index, detector.name, trial)
                else:
                    self._asking.append(_Asking(index, detector.name, trial))
            except Exception:  # noqa: BLE001 - a detector's bug must cost that detector's finding, not the engine
                self._failed(index, detector.name)

    def _spared(self) -> bool:
        """Whether the verdict is certain before this stage; its detectors and later ones then abstain."""
        if not self._stage or self._decided is None or self.label is None:
            return False
        try:
            if not self._decided([finding for finding in self._findings if finding is not None]):
                return False
        except Exception:  # noqa: BLE001 - the price of a bug there is the evaluations that could have been spared
            _log.exception("whether the verdict is certain could not be said", decision_id=self.decision_id)
            return False
        for stage in self._stages[self._stage :]:
            for index, detector in stage:
                self._findings[index] = Spared(detector.name)
        return True

    def _join(self, index: int, name: str, trial: SequentialTrial) -> None:
        """Begin a sequential trial, with the copies that are known already."""
        itself, stream = self._stream(ITSELF.source), self._stream(trial.source)
        itself.want(1, LABEL)
        walk = (index, name, trial)
        fault = itself.fault or stream.fault
        if fault is not None:
            self._findings[index] = Fault(name, fault, 0, self._age_s())
            return
        if not stream.parts:
            stream.want(trial.wanted, name)
        elif self._walked(stream, walk, stream.answers(Probes(stream.source, 0, stream.known))):
            return
        stream.walks.append(walk)
        self._walking += 1

    def _walked(self, stream: Stream, walk: tuple[int, str, SequentialTrial], answers: Answers) -> bool:
        """Move a sequential trial; whether it is at its end."""
        index, name, trial = walk
        try:
            if not trial.take(answers):
                stream.want(trial.wanted, name)
                return False
            self._findings[index] = trial.finding(self.label, self._age_s())
        except Exception:  # noqa: BLE001 - as in _begin_next_stage
            self._failed(index, name)
        return True

    def _moved_to_its_end(self, asking: _Asking) -> bool:
        try:
            return self._move(asking)
        except Exception:  # noqa: BLE001 - as in _begin_next_stage
            self._failed(asking.index, asking.name)
            return True

    def _move(self, asking: _Asking) -> bool:
        """Move a trial that asks as far as known answers allow; whether it is at its end."""
        trial, waiting = asking.trial, asking.waiting
        while True:
            if not waiting:
                waiting.extend(trial.ask())
                if not waiting:
                    self._findings[asking.index] = trial.finding(self._age_s())
                    return True
                for probes in waiting:
                    who = LABEL if probes.source is ITSELF.source else asking.name
                    stream = self._stream(probes.source)
                    stream.shown = True
                    stream.want(probes.start + probes.copies, who)
            while waiting:
                probes = waiting[0]
                stream = self._streams[probes.source]
                if stream.fault is not None:
                    known = min(stream.known, probes.start)
                    self._findings[asking.index] = Fault(asking.name, stream.fault, known, self._age_s())
                    return True
                if stream.known < probes.start + probes.copies:
                    return False
                trial.tell(probes, stream.answers(probes))
                del waiting[0]

    def _failed(self, index: int, name: str) -> None:
        _log.exception("detector failed", detector=name, decision_id=self.decision_id)
        self._findings[index] = Fault(name, FaultReason.DETECTOR, duration_s=self._age_s())

    def _age_s(self) -> float:
        return time.monotonic() - self._opened_at

    def _stream(self, source: Source) -> Stream:
        stream = self._streams.get(source)
        if stream is None:
            if source.backend not in self._backends:
                raise LookupError(f"there is no backend {source.backend!r} to classify {source.mutation.kind} copies")
            stream = self._streams[source] = Stream(source)
        return stream
