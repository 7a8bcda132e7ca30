"""The engine when a detector raises, or what judges its findings: what it costs, and what it must not."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from guard.errors import BackendError
from guard.profile import spec
from guard.screen.boundaries import wald
from guard.screen.build import build_detectors
from guard.screen.trial import ITSELF, Answers, Detector, Probes, SequentialTrial, Trial, source
from guard.values import Abstention, Certified, Evidence, Fault, FaultReason, Finding
from tests.screen.parts import TIMEOUT_S, FakeBackend, item, running, screen, steady

GAUSSIAN = spec.Gaussian(sigma=0.5)
ALL = (
    spec.ConfidenceSpec(),
    spec.SensitivitySpec(mutation=GAUSSIAN, p0=0.02, p1=0.2),
    spec.SmoothingSpec(sigma=0.5, radius=0.25),
)


class Raising:
    """A detector that raises in one of its methods, and its own trial."""

    name = "raising"
    stage = 0

    def __init__(self, where: str) -> None:
        self._where = where

    def _maybe_raise(self, where: str) -> None:
        if where == self._where:
            raise ZeroDivisionError(where)

    def open(self) -> Trial:
        """Start."""
        self._maybe_raise("open")
        return self

    def ask(self) -> Sequence[Probes]:
        """The input, for ever: told or not."""
        self._maybe_raise("ask")
        return () if self._where == "finding" else (ITSELF,)

    def tell(self, probes: Probes, answers: Answers) -> None:  # noqa: ARG002 - it hears nothing
        """Hear nothing."""
        self._maybe_raise("tell")

    def finding(self, duration_s: float = 0.0) -> Finding:
        """Find nothing."""
        self._maybe_raise("finding")
        return Abstention(self.name, 0, "", duration_s)


class RaisingSequential(SequentialTrial):
    """A detector that raises in one of the methods of a sequential trial, and its own trial."""

    name = "raising"
    stage = 0

    def __init__(self, where: str) -> None:
        super().__init__(source(GAUSSIAN), wald(0.02, 0.2, 0.01, 0.05, 64), first_chunk=4)
        self._where = where

    def _maybe_raise(self, where: str) -> None:
        if where == self._where:
            raise ZeroDivisionError(where)

    def open(self) -> SequentialTrial:
        """Start."""
        return self

    @property
    def wanted(self) -> int:
        """As any."""
        self._maybe_raise("wanted")
        if self._step.n:
            self._maybe_raise("wanted later")
        return super().wanted

    def take(self, answers: Answers) -> bool:
        """As any."""
        self._maybe_raise("take")
        return super().take(answers)

    def finding(self, label: int | None, duration_s: float = 0.0) -> Finding:  # noqa: ARG002 - it finds nothing
        """Find nothing."""
        self._maybe_raise("finding")
        return Abstention(self.name, 0, "", duration_s)


@pytest.mark.parametrize("staged", [False, True], ids=["at-once", "staged"])
@pytest.mark.parametrize(
    ("detector", "where"),
    [
        *((Raising, where) for where in ("open", "ask", "tell", "finding")),
        *((RaisingSequential, where) for where in ("wanted", "wanted later", "take", "finding")),
    ],
)
def test_detector_raises(detector: Callable[[str], Detector], where: str, *, staged: bool) -> None:
    """A detector that raises, wherever it does, costs its own finding and no other."""
    detectors = (detector(where), *build_detectors(ALL))
    decided = (lambda *_: False) if staged else None
    with running(FakeBackend(steady), detectors, decided=decided) as engine:
        raising, *others = engine.submit(item(1)).result(TIMEOUT_S).findings
        assert isinstance(raising, Fault)
        assert (raising.detector, raising.reason) == ("raising", FaultReason.DETECTOR)
        assert [type(finding) for finding in others] == [Evidence, Evidence, Certified]
        assert engine.alive


def test_decided_raises() -> None:
    """If the verdict's certainty can't be said, nothing is spared, and the engine lives."""

    def decided(findings: Sequence[Finding]) -> bool:
        raise ZeroDivisionError

    with running(FakeBackend(steady), build_detectors(ALL), decided=decided) as engine:
        findings = engine.submit(item(1)).result(TIMEOUT_S).findings
        assert [type(finding) for finding in findings] == [Evidence, Evidence, Certified]
        assert engine.alive


class Stuck:
    """A detector whose trial neither wants a copy nor ends."""

    name = "stuck"
    stage = 0

    def open(self) -> SequentialTrial:
        """Start."""
        return SequentialTrial(source(GAUSSIAN), wald(0.02, 0.2, 0.01, 0.05, 64), first_chunk=0)


def test_a_trial_that_gets_nowhere() -> None:
    """A trial that neither asks nor ends costs its own finding, and hangs neither its item nor the engine."""
    with running(FakeBackend(steady), (Stuck(), *build_detectors((spec.ConfidenceSpec(),)))) as engine:
        for number in (1, 2):
            stuck, confidence = engine.submit(item(number)).result(TIMEOUT_S).findings
            assert isinstance(stuck, Fault)
            assert stuck.reason is FaultReason.DETECTOR
            assert isinstance(confidence, Evidence)
        assert engine.live == 0
        assert engine.alive


def test_what_failed_was_spent() -> None:
    """Evaluations in a batch that failed, or came back as NaN, were spent all the same, and are on the account."""

    def broken(x: Tensor) -> Tensor:
        return torch.full((len(x), 3), float("nan"))

    def gone(_x: Tensor) -> Tensor:
        raise BackendError("gone")

    for answer in (broken, gone):
        backend = FakeBackend(answer)
        screening = screen(backend, ALL[1:2], item(1))
        assert sum(screening.spent.values()) == sum(backend.sizes) > 0
