"""Queries that resemble earlier ones, through the gate."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest

from guard.config import Queries
from guard.observe.logs import decision_event
from guard.queries.memory import Alike, Query, QueryMemory, Radii
from guard.queries.watch import QueryWatch
from guard.values import Action, Float32Array, Probing, UnscreenedReason, Verdict
from tests.gate.parts import ADVERSARIAL, CLEAN, Start, request

EVERY_BIT = 512


class Pairs:
    """Fingerprints of pairs of numbers, which are no images: all of them are alike."""

    def prints(self, inputs: Float32Array) -> tuple[np.ndarray, np.ndarray]:
        """Zeros; none is flat."""
        return np.zeros((len(inputs), 8), np.uint64), np.zeros(len(inputs), np.bool_)

    def exact(self, item: Float32Array) -> int:
        """The values themselves."""
        return int(item.tobytes().hex(), 16)

    def client(self, name: str) -> int:
        """The name itself."""
        return int.from_bytes(name.encode())


class Stuck(QueryMemory):
    """A memory that waits until it is let go, and then fails if it is told to."""

    def __init__(self) -> None:
        super().__init__(capacity=8, keep_s=60, radii=Radii(EVERY_BIT, EVERY_BIT))
        self.go = threading.Event()
        self.failure: Exception | None = None

    def look(self, query: Query, now_s: float) -> Alike:
        """Look, later."""
        self.go.wait()
        if self.failure:
            raise self.failure
        return super().look(query, now_s)


@pytest.fixture
def memory() -> Iterator[Stuck]:
    """Let go from the beginning."""
    stuck = Stuck()
    stuck.go.set()
    yield stuck
    stuck.go.set()


@pytest.fixture
def watch(memory: Stuck) -> Iterator[QueryWatch]:
    """Three near-duplicates are the limit."""
    made = QueryWatch(Pairs(), memory, limit=3)  # type: ignore[arg-type]
    yield made
    memory.go.set()
    made.close()


def variations(count: int) -> list[tuple[float, float]]:
    """Clean inputs, each another one."""
    return [(6.0 + n / 64, 1.0) for n in range(count)]


async def test_reject(start: Start, watch: QueryWatch) -> None:
    """Where the policy rejects, the query after the limit is adversarial, charged to the client's behaviour alone."""
    guard = start(watch=watch, queries=Queries.REJECT)
    decisions = [await guard.ask(request(each), client="a") for each in variations(5)]
    assert [d.verdict for d in decisions] == [Verdict.CLEAN] * 3 + [Verdict.ADVERSARIAL] * 2
    assert decisions[3].action is Action.REJECT
    assert decisions[3].p_value is not None
    assert decision_event(decisions[4])["queries"] == {"of_client": 4, "of_everyone": 4}
    assert guard.counted("guard_verdicts_total") == {"queries": 2}
    assert guard.counted("guard_detector_pvalue_ratio_count") == {"combined": 5, "confidence": 5}


async def test_report(start: Start, watch: QueryWatch) -> None:
    """Where the policy reports, the same queries are forwarded, and counted."""
    guard = start(watch=watch, queries=Queries.REPORT)
    decisions = [await guard.ask(request(each), client="a") for each in variations(5)]
    assert {d.verdict for d in decisions} == {Verdict.CLEAN}
    assert [d.items[0].findings[-1].suspicious for d in decisions] == [False] * 3 + [True] * 2
    assert guard.total("guard_suspicious_queries_total") == 2
    assert decision_event(decisions[0])["queries"] is None


async def test_no_memory(start: Start) -> None:
    """Without a memory there is no such finding."""
    decision = await start().screen(CLEAN)
    assert not any(isinstance(finding, Probing) for finding in decision.items[0].findings)


async def test_clients_are_told_apart(start: Start, watch: QueryWatch) -> None:
    """Four clients with a query each are below both limits; a repetition by any of them is no evidence."""
    guard = start(watch=watch, queries=Queries.REJECT)
    for number, each in enumerate(variations(4)):
        for _ in range(3):
            assert (await guard.ask(request(each), client=f"client {number}")).verdict is Verdict.CLEAN


async def test_other_detectors_are_charged_first(start: Start, watch: QueryWatch) -> None:
    """An input that is adversarial by itself counts for the detector that found it."""
    guard = start(watch=watch, queries=Queries.REJECT)
    await guard.ask(request(*variations(4)), client="a")
    await guard.ask(request(ADVERSARIAL), client="a")
    assert guard.counted("guard_verdicts_total") == {"queries": 1, "confidence": 1}


@pytest.mark.parametrize(
    ("policy", "expected"), [(Queries.REPORT, Verdict.CLEAN), (Queries.REJECT, Verdict.UNSCREENED)]
)
async def test_a_memory_that_fails(
    start: Start, watch: QueryWatch, memory: Stuck, policy: Queries, expected: Verdict
) -> None:
    """What can't be compared is not called clean where the policy rejects; elsewhere it is a fault that is counted."""
    memory.failure = ValueError("a bug")
    guard = start(watch=watch, queries=policy)
    decision = await guard.ask(request(CLEAN), client="a")
    assert decision.verdict is expected
    assert guard.counted("guard_detector_errors_total")


async def test_a_memory_that_is_late(start: Start, watch: QueryWatch, memory: Stuck) -> None:
    """A memory that does not answer in time doesn't hold the request up."""
    memory.go.clear()
    guard = start(watch=watch, queries=Queries.REJECT, screening_budget_s=0.2)
    decision = await guard.ask(request(CLEAN), client="a")
    assert (decision.verdict, decision.reason) == (Verdict.UNSCREENED, UnscreenedReason.DEADLINE)


async def test_what_was_rejected_is_remembered(start: Start, watch: QueryWatch) -> None:
    """A chain stays one for as long as it is remembered: a rejection doesn't clear it."""
    guard = start(watch=watch, queries=Queries.REJECT)
    verdicts = [(await guard.ask(request(each), client="a")).verdict for each in variations(20)]
    assert verdicts[3:] == [Verdict.ADVERSARIAL] * 17
