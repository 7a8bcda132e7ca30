"""No evaluation is told to the wrong trial, whatever arrives, leaves, expires or fails, and whenever."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from guard.errors import BackendError, DeadlineExceeded, Overloaded
from guard.profile import spec
from guard.screen.build import build_detectors
from guard.screen.engine import Engine
from guard.screen.trial import NETWORK
from guard.values import Evidence, Fault, FaultReason, Finding, Screening, Spared
from tests.screen.parts import TIMEOUT_S, FakeBackend, eventually, item, model_info, numbers, pixels, running, untimed

SPECS = (
    spec.SmoothingSpec(sigma=0.5, radius=0.3),
    spec.SmoothingSpec(sigma=0.5, radius=0.1, cap=30, test="fixed"),
    spec.ConfidenceSpec(),
    spec.SensitivitySpec(mutation=spec.Gaussian(sigma=0.5), p0=0.02, p1=0.2, first_chunk=5, cap=40),
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

    Before each answer, while the engine makes other copies, it lets the script's events of that turn happen.
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
    """Hands items to the engine, and cancels them, at the turns that the script says; keeps whom it refused."""

    arrive: Mapping[int, int]
    cancel: Mapping[int, int]
    deadlines: Mapping[int, float]
    clients: Mapping[int, str]
    engine: Engine | None = None
    futures: dict[int, Future[Screening]] = field(default_factory=dict)
    refused: set[int] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, turn: int) -> None:
        """Let this turn's events happen."""
        assert self.engine is not None
        with self.lock:
            for number in ITEMS:
                if number not in {*self.futures, *self.refused} and self.arrive[number] <= turn:
                    self._hand_in(number, self.engine)
                if self.cancel.get(number, turn + 1) <= turn and number in self.futures:
                    self.futures[number].cancel()

    def _hand_in(self, number: int, engine: Engine) -> None:
        try:
            self.futures[number] = engine.submit(
                item(number), deadline_s=self.deadlines.get(number), client=self.clients[number]
            )
        except Overloaded:
            self.refused.add(number)


@dataclass(frozen=True)
class Judge:
    """Finds the verdict certain if a detector scored lower: for some items at once, for some late, for some never."""

    below: float

    def __call__(self, findings: Sequence[Finding]) -> bool:
        """Whether it is."""
        return any(isinstance(finding, Evidence) and finding.score < self.below for finding in findings)

    def spared(self, number: int) -> set[int]:
        """The places of the detectors that an item is spared when nothing fails."""
        label, findings = alone(number)
        stages = [detector.stage for detector in build_detectors(SPECS)]
        for stage in (0, 1):
            heard = [finding for finding, its in zip(findings, stages, strict=True) if its <= stage]
            if label is not None and self(heard):
                return {place for place, its in enumerate(stages) if its > stage}
        return set()


@settings(max_examples=60, deadline=None)
@given(
    arrive=st.fixed_dictionaries(dict.fromkeys(ITEMS, st.integers(0, 8))),
    cancel=st.dictionaries(st.sampled_from(ITEMS), st.integers(0, 12), max_size=3),
    deadlines=st.dictionaries(st.sampled_from(ITEMS), st.sampled_from([0.0, 0.001, 0.003, 0.01]), max_size=3),
    failures=st.dictionaries(st.integers(0, 12), st.sampled_from(FAILURES), max_size=4),
    clients=st.fixed_dictionaries(dict.fromkeys(ITEMS, st.sampled_from("abc"))),
    judge=st.sampled_from([None, Judge(-1.5), Judge(-0.5), Judge(-99.0)]),
    batch=st.sampled_from([1, 5, 33, 64]),
    room=st.sampled_from([1, 3, 64]),
    live=st.sampled_from([1, 3, 16]),
)
def test_each_gets_its_own(
    *,
    arrive: dict[int, int],
    cancel: dict[int, int],
    deadlines: dict[int, float],
    failures: dict[int, str],
    clients: dict[int, str],
    judge: Judge | None,
    batch: int,
    room: int,
    live: int,
) -> None:
    """Each item gets the findings it would get alone, or the fault that hit its own copies; nothing is left hanging."""
    arrivals = Arrivals(arrive, cancel, deadlines, clients)
    unreliable = Unreliable(failures, arrivals)
    backend = FakeBackend(unreliable, batch=batch)
    with running(
        backend,
        build_detectors(SPECS),
        others={NETWORK: network()},
        decided=judge,
        max_live_items=live,
        max_queued_items=room,
    ) as engine:
        arrivals.engine = engine
        first = engine.submit(item(9))  # its turns let the others arrive
        first.exception(TIMEOUT_S)
        arrivals(max(12, unreliable.turn))
        futures = {9: first, **arrivals.futures}
        for future in futures.values():
            with suppress(CancelledError):
                future.exception(TIMEOUT_S)
        assert eventually(lambda: engine.live == engine.depth == 0)  # no slot is leaked
    for number, future in futures.items():
        if future.cancelled():
            assert number in cancel
        elif isinstance(future.exception(), Overloaded):
            assert room < len(ITEMS)  # it had to leave for another client's
        else:
            check(number, future, unreliable.hit.get(number, set()), judge, expires=number in deadlines)
    assert max(backend.sizes) <= batch
    assert sum(map(spent, futures.values())) <= sum(backend.sizes)
    assert {*futures, *arrivals.refused} == {9, *ITEMS}
    assert room < len(ITEMS) or arrivals.refused <= set(deadlines)


def spent(future: Future[Screening]) -> int:
    """What one item was charged with."""
    return 0 if future.cancelled() or future.exception() is not None else sum(future.result().spent.values())


def check(number: int, future: Future[Screening], hit: set[FaultReason], judge: Judge | None, *, expires: bool) -> None:
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
    # A failure on copies of which a trial took none, beyond its boundary, costs nothing: faults may be fewer than hits.
    spared = {place for place, finding in enumerate(findings) if is_spared(finding)}
    assert hit or expires or spared == (judge.spared(number) if judge else set())
    for found, right in zip(findings, expected, strict=True):
        assert found == right or isinstance(found, Fault) or (judge is not None and is_spared(found))
        assert found.detector == right.detector


def is_spared(finding: Finding) -> bool:
    """Whether a detector was not needed."""
    return isinstance(finding, Spared)
