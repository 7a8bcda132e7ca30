"""No evaluation is told to the wrong trial, whatever arrives, leaves, expires or fails, and whenever."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from guard.errors import BackendError, DeadlineExceeded, EngineStopped
from guard.profile import spec
from guard.screen.build import build_detectors
from guard.screen.engine import Engine
from guard.screen.trial import NETWORK
from guard.values import Fault, FaultReason, Finding, Screening
from tests.screen.parts import TIMEOUT_S, FakeBackend, item, model_info, numbers, pixels, running, steady, untimed

SPECS = (
    spec.SmoothingSpec(sigma=0.5, radius=0.3),
    spec.ConfidenceSpec(),
    spec.SensitivitySpec(mutation=spec.Gaussian(sigma=0.5), p0=0.02, p1=0.2, batch=5, cap=40),
    spec.SensitivitySpec(mutation=spec.Uniform(width=0.5), p0=0.05, p1=0.2, undecided="abstain"),
    spec.SqueezingSpec(squeezers=(spec.BitDepth(bits=8), spec.BitDepth(bits=7))),
    spec.NetworkSpec(sha256=""),
)
ITEMS = range(1, 9)
FAILURES = ("backend_error", "bug", "nan_row")


def network() -> FakeBackend:
    """A detector network whose answer is the input's first value."""
    return FakeBackend(lambda x: torch.stack([x[:, 0], x[:, 1]], dim=1), info=model_info(classes=2), batch=3)


@cache
def alone(number: int) -> tuple[int | None, tuple[Finding, ...]]:
    """What an item gets when it is the only one and nothing fails."""
    with running(FakeBackend(pixels), build_detectors(SPECS), others={NETWORK: network()}) as engine:
        return untimed(engine.submit(item(number)).result(TIMEOUT_S))


@dataclass
class Unreliable:
    """Answers by the copies' own values, fails where the script says so, and keeps whose copies that hit.

    Before each answer, on the engine's own thread, it lets the script's events of that turn happen.
    """

    failures: Mapping[int, str]
    happen: Callable[[int], None]
    turn: int = 0
    hit: dict[int, set[FaultReason]] = field(default_factory=dict)

    def __call__(self, x: Tensor) -> Tensor:
        """Logits."""
        turn, self.turn = self.turn, self.turn + 1
        self.happen(turn)
        failure = self.failures.get(turn)
        if failure is None:
            return pixels(x)
        if failure == "nan_row":
            row = turn % len(x)
            self._note(x[row : row + 1], FaultReason.NON_FINITE_OUTPUT)
            logits = pixels(x)
            logits[row, 0] = float("nan")
            return logits
        self._note(x, FaultReason.BACKEND)
        raise BackendError("gone") if failure == "backend_error" else IndexError("a bug")

    def _note(self, x: Tensor, reason: FaultReason) -> None:
        for number in numbers(x):
            self.hit.setdefault(number, set()).add(reason)


@dataclass
class Arrivals:
    """Hands items to the engine, and cancels them, at the turns that the script says."""

    arrive: Mapping[int, int]
    cancel: Mapping[int, int]
    deadlines: Mapping[int, float]
    engine: Engine | None = None
    futures: dict[int, Future[Screening]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, turn: int) -> None:
        """Let this turn's events happen."""
        assert self.engine is not None
        with self.lock:
            for number in ITEMS:
                if number not in self.futures and self.arrive[number] <= turn:
                    self.futures[number] = self.engine.submit(item(number), deadline_s=self.deadlines.get(number))
                if self.cancel.get(number, turn + 1) <= turn and number in self.futures:
                    self.futures[number].cancel()


@settings(max_examples=60, deadline=None)
@given(
    arrive=st.fixed_dictionaries(dict.fromkeys(ITEMS, st.integers(0, 8))),
    cancel=st.dictionaries(st.sampled_from(ITEMS), st.integers(0, 12), max_size=3),
    deadlines=st.dictionaries(st.sampled_from(ITEMS), st.sampled_from([0.0, 0.001, 0.003, 0.01]), max_size=3),
    failures=st.dictionaries(st.integers(0, 12), st.sampled_from(FAILURES), max_size=4),
    batch=st.sampled_from([1, 5, 16, 64]),
    live=st.sampled_from([1, 3, 16]),
)
def test_each_gets_its_own(
    *,
    arrive: dict[int, int],
    cancel: dict[int, int],
    deadlines: dict[int, float],
    failures: dict[int, str],
    batch: int,
    live: int,
) -> None:
    """Each item gets the findings it would get alone, or the fault that hit its own copies; nothing is left hanging."""
    arrivals = Arrivals(arrive, cancel, deadlines)
    unreliable = Unreliable(failures, arrivals)
    backend = FakeBackend(unreliable, batch=batch)
    detectors = build_detectors(SPECS)
    with running(backend, detectors, others={NETWORK: network()}, max_live_items=live) as engine:
        arrivals.engine = engine
        first = engine.submit(item(9))  # its turns let the others arrive
        first.exception(TIMEOUT_S)
        arrivals(max(8, unreliable.turn))
        futures = {9: first, **arrivals.futures}
        for future in futures.values():
            with suppress(CancelledError):
                future.exception(TIMEOUT_S)
    for number, future in futures.items():
        if future.cancelled():
            assert number in cancel
        else:
            check(number, future, unreliable.hit.get(number, set()), expires=number in deadlines)
    assert max(backend.sizes) <= batch
    assert set(futures) == {9, *ITEMS}


def check(number: int, future: Future[Screening], hit: set[FaultReason], *, expires: bool) -> None:
    """One item against what it gets alone."""
    error = future.exception()
    if error is not None:
        assert expires
        assert isinstance(error, DeadlineExceeded)
        return
    label, findings = untimed(future.result())
    expected_label, expected = alone(number)
    assert label in ({expected_label, None} if hit or expires else {expected_label})
    assert len(findings) == len(expected)
    faults = {finding.reason for finding in findings if isinstance(finding, Fault)}
    assert faults <= hit | ({FaultReason.DEADLINE} if expires else set())
    assert expires or bool(faults) is bool(hit)
    for found, right in zip(findings, expected, strict=True):
        assert found == right or isinstance(found, Fault)
        assert found.detector == right.detector


def test_stop_races_with_submit() -> None:
    """Of items handed in while the engine stops, each is refused or its future ends: none is left hanging."""
    for _ in range(20):
        futures: list[Future[Screening]] = []
        with running(FakeBackend(steady), build_detectors(SPECS[1:2])) as engine:
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
