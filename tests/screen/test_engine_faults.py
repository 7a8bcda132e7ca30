"""The engine when something fails: what it costs, and what it must not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from guard.errors import BackendError, EngineStopped
from guard.profile import spec
from guard.screen.build import build_detectors
from guard.screen.trial import ITSELF, NETWORK, Probes, Trial
from guard.values import Abstention, Certified, Evidence, Fault, FaultReason, Finding
from tests.screen.parts import TIMEOUT_S, FakeBackend, HeldBackend, item, model_info, running, screen, steady

GAUSSIAN = spec.Gaussian(sigma=0.5)
CONFIDENCE = spec.ConfidenceSpec()
SENSITIVITY = spec.SensitivitySpec(mutation=GAUSSIAN, p0=0.02, p1=0.2)
SMOOTHING = spec.SmoothingSpec(sigma=0.5, radius=0.25)
ALL = (CONFIDENCE, SENSITIVITY, SMOOTHING)


class Raising:
    """A detector that raises in one of its methods, and its own trial."""

    name = "raising"

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

    def tell(self, probes: Probes, logits: Tensor) -> None:  # noqa: ARG002 - it hears nothing
        """Hear nothing."""
        self._maybe_raise("tell")

    def finding(self) -> Finding:
        """Find nothing."""
        self._maybe_raise("finding")
        return Abstention(self.name, 0, "")


@dataclass
class FailsOnce:
    """Answers steadily, but for its first batch, on which it raises or answers what it is told to."""

    first: Exception | Tensor
    failed: bool = False

    def __call__(self, x: Tensor) -> Tensor:
        """Logits."""
        if self.failed:
            return steady(x)
        self.failed = True
        if isinstance(self.first, Exception):
            raise self.first
        return self.first


@pytest.mark.parametrize("where", ["open", "ask", "tell", "finding"])
def test_detector_raises(where: str) -> None:
    """A detector that raises, wherever it does, costs its own finding and no other."""
    detectors = (Raising(where), *build_detectors(ALL))
    with running(FakeBackend(steady), detectors) as engine:
        raising, *others = engine.submit(item(1)).result(TIMEOUT_S).findings
        assert isinstance(raising, Fault)
        assert (raising.detector, raising.reason) == ("raising", FaultReason.DETECTOR)
        assert [type(finding) for finding in others] == [Evidence, Evidence, Certified]
        assert engine.alive


@pytest.mark.parametrize("unusable", [spec.SqueezingSpec(squeezers=(spec.Median(),)), spec.NetworkSpec(sha256="")])
def test_copy_that_cannot_be_made(unusable: spec.DetectorSpec) -> None:
    """Copies that can't be made, or a backend that isn't there, cost the finding that needed them and no other."""
    unmade, *others = screen(FakeBackend(steady), (unusable, *ALL), item(1)).findings
    assert isinstance(unmade, Fault)
    assert unmade.reason is FaultReason.DETECTOR
    assert [type(finding) for finding in others] == [Evidence, Evidence, Certified]


@pytest.mark.parametrize(
    ("first", "reason"),
    [
        (BackendError("gone"), FaultReason.BACKEND),
        (ValueError("a bug"), FaultReason.BACKEND),
        (torch.zeros(2, 3), FaultReason.BACKEND),
        (torch.zeros(9, 0), FaultReason.BACKEND),
        (torch.zeros(9), FaultReason.BACKEND),
        (torch.full((9, 3), float("nan")), FaultReason.NON_FINITE_OUTPUT),
        (torch.full((9, 3), float("inf")), FaultReason.NON_FINITE_OUTPUT),
    ],
    ids=["backend-error", "bug", "too-few-rows", "no-classes", "one-dimension", "nan", "inf"],
)
def test_replica_fails(first: Exception | Tensor, reason: FaultReason) -> None:
    """A replica's failure faults each detector of the items in that batch, and the next item is screened."""
    with running(FakeBackend(FailsOnce(first)), build_detectors(ALL)) as engine:
        failed, fine = (engine.submit(item(n)).result(TIMEOUT_S) for n in (1, 2))
        assert [(f.detector, f.reason) for f in failed.findings if isinstance(f, Fault)] == [
            (detector.name, reason) for detector in ALL
        ]
        assert failed.label is None
        assert [type(finding) for finding in fine.findings] == [Evidence, Evidence, Certified]


def test_network_fails_alone() -> None:
    """A failing detector network costs its own finding; the model's answers stand."""
    network = FakeBackend(FailsOnce(BackendError("gone")), info=model_info(classes=2))
    detectors = build_detectors((spec.NetworkSpec(sha256=""), *ALL))
    with running(FakeBackend(steady), detectors, others={NETWORK: network}) as engine:
        screening = engine.submit(item(1)).result(TIMEOUT_S)
    assert [type(finding) for finding in screening.findings] == [Fault, Evidence, Evidence, Certified]
    assert screening.label == 1


def test_non_finite_copy() -> None:
    """One mutant with a NaN faults the detectors that need it; those that don't keep their findings, and the label."""

    def answer(x: Tensor) -> Tensor:
        logits = steady(x).clone()
        logits[3:] = float("nan")
        return logits

    screening = screen(FakeBackend(answer), ALL, item(1))
    assert screening.label == 1
    confidence, *others = screening.findings
    assert isinstance(confidence, Evidence)
    assert [f.reason for f in others if isinstance(f, Fault)] == [FaultReason.NON_FINITE_OUTPUT] * 2


def test_stop_fails_what_is_outstanding() -> None:
    """Stopping fails live and queued items with EngineStopped, even while a replica hangs, and refuses new ones."""
    backend = HeldBackend(steady)
    with running(backend, build_detectors(ALL), max_live_items=1) as engine:
        futures = [engine.submit(item(n)) for n in (1, 2, 3)]
        assert backend.entered.wait(TIMEOUT_S)
        assert engine.alive
        engine.stop(timeout_s=0.0)
        assert [type(future.exception(TIMEOUT_S)) for future in futures] == [EngineStopped] * 3
        assert not engine.alive
        with pytest.raises(EngineStopped):
            engine.submit(item(4))
        backend.release.set()
        engine.stop()
    assert len(backend.batches) == 1


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_dying_thread() -> None:
    """If the thread dies, every item fails, the engine is no longer alive, and says so to who comes later."""

    def die(x: Tensor) -> Tensor:
        raise SystemExit

    backend = HeldBackend(die)
    with running(backend, build_detectors(ALL), max_live_items=1) as engine:
        futures = [engine.submit(item(n)) for n in (1, 2, 3)]
        assert backend.entered.wait(TIMEOUT_S)
        assert futures[2].cancel()
        backend.release.set()
        assert [type(future.exception(TIMEOUT_S)) for future in futures[:2]] == [EngineStopped] * 2
        assert not engine.alive
        with pytest.raises(EngineStopped):
            engine.submit(item(4))
