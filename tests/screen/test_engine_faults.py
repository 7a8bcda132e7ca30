"""The engine when something fails: what it costs, and what it must not."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from guard.errors import BackendError, EngineStopped
from guard.profile import spec
from guard.screen.build import build_detectors
from guard.screen.engine import HANG_S, Engine
from guard.screen.trial import NETWORK
from guard.values import Certified, Evidence, Fault, FaultReason, Screening
from tests.screen.parts import (
    TIMEOUT_S,
    FakeBackend,
    HeldBackend,
    item,
    model_info,
    running,
    screen,
    steady,
    untimed,
)

GAUSSIAN = spec.Gaussian(sigma=0.5)
CONFIDENCE = spec.ConfidenceSpec()
SENSITIVITY = spec.SensitivitySpec(mutation=GAUSSIAN, p0=0.02, p1=0.2)
SMOOTHING = spec.SmoothingSpec(sigma=0.5, radius=0.25)
ALL = (CONFIDENCE, SENSITIVITY, SMOOTHING)


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


def test_itself_fails_alone() -> None:
    """A failure on the input itself faults every detector, since nothing can be compared with its label."""

    def answer(x: Tensor) -> Tensor:
        logits = steady(x).clone()
        logits[(x == torch.from_numpy(item(1))).all(dim=1)] = float("nan")
        return logits

    screening = screen(FakeBackend(answer), ALL, item(1))
    assert screening.label is None
    assert [type(finding) for finding in screening.findings] == [Fault] * 3


def test_answers_are_kept_apart() -> None:
    """A model that answers with a view of its own input gets the findings of one that answers with a copy."""
    specs = (spec.SqueezingSpec(squeezers=tuple(spec.BitDepth(bits=bits) for bits in range(1, 6))), *ALL)
    kept = FakeBackend(lambda x: x, batch=2)
    assert untimed(screen(kept, specs, item(1))) == untimed(screen(FakeBackend(torch.clone, batch=2), specs, item(1)))


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
        mutants = (x != torch.from_numpy(item(1))).any(dim=1).nonzero()
        logits[mutants[2]] = float("nan")
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


def test_a_thread_that_hangs() -> None:
    """An engine whose turn does not end is said to hang, after a time, and no more once the turn has ended."""
    backend = HeldBackend(steady)
    with running(backend, build_detectors(ALL)) as engine:
        future = engine.submit(item(1))
        assert backend.entered.wait(TIMEOUT_S)
        assert not engine.hangs
        engine._turn_began -= HANG_S
        assert engine.alive
        assert engine.hangs
        backend.release.set()
        future.result(TIMEOUT_S)
        engine.submit(item(2)).result(TIMEOUT_S)
        assert not engine.hangs


def test_stop_races_with_submit() -> None:
    """Of items handed in while the engine stops, each is refused or its future ends: none is left hanging."""
    for _ in range(20):
        futures: list[Future[Screening]] = []
        with running(FakeBackend(steady), build_detectors([CONFIDENCE])) as engine:
            started = threading.Event()

            def hand_in(engine: Engine, futures: list[Future[Screening]], started: threading.Event) -> None:
                try:
                    while True:
                        futures.append(engine.submit(item(1)))
                        futures[-1].add_done_callback(lambda _: started.set())
                        if len(futures) % 8 == 0:
                            futures[-8].exception(TIMEOUT_S)
                except EngineStopped:
                    return

            thread = threading.Thread(target=hand_in, args=(engine, futures, started))
            thread.start()
            assert started.wait(TIMEOUT_S)
            engine.stop()
            thread.join(TIMEOUT_S)
            assert not thread.is_alive()
        assert all(isinstance(future.exception(TIMEOUT_S), EngineStopped | None) for future in futures)
