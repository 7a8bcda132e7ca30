"""Threads that clients take in turns."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future

import pytest

from guard.decode.turns import Steps, Turns, at_once
from tests.support.waiting import PATIENCE_S, wait_for


class Work:
    """Work of several steps, on one thread: what was done of it, by name, and a gate before the first."""

    def __init__(self, turns: Turns) -> None:
        self.turns, self.done = turns, list[str]()
        self.gate, self._begun = threading.Event(), threading.Event()
        self._first = turns.submit(self._wait(), "gate")
        assert self._begun.wait(PATIENCE_S)

    def submit(self, name: str, client: str, steps: int) -> Future[str]:
        """Have so many steps done."""
        return self.turns.submit(self._steps(name, steps), client)

    def _wait(self) -> Steps[None]:
        self._begun.set()
        self.gate.wait(PATIENCE_S)
        yield

    def _steps(self, name: str, steps: int) -> Steps[str]:
        for _ in range(steps):
            self.done.append(name)
            yield
        return name


def failing_with(error: Exception) -> Steps[None]:
    """A step, and then an error."""
    yield
    raise error


@pytest.fixture
def work() -> Iterator[Work]:
    """On one thread, where each step is a turn."""
    turns = Turns(1, "test", slice_s=0.0)
    made = Work(turns)
    yield made
    made.gate.set()
    turns.close()


def test_clients_take_turns(work: Work) -> None:
    """However much a client asks for, another's turn comes after one step; a client's own is done in its order."""
    much = [work.submit(name, "a", 3) for name in ("a1", "a2")]
    little = work.submit("b", "b", 2)
    work.gate.set()
    assert [each.result(PATIENCE_S) for each in (little, *much)] == ["b", "a1", "a2"]
    assert work.done == ["a1", "b", "a1", "b", "a1", "a2", "a2", "a2"]


def test_a_slice() -> None:
    """A turn lasts a while: what is done sooner takes one."""
    turns = Turns(1, "test", slice_s=PATIENCE_S)
    work = Work(turns)
    futures = [work.submit("a", "a", 3), work.submit("b", "b", 3)]
    work.gate.set()
    assert [each.result(PATIENCE_S) for each in futures] == ["a", "b"]
    assert work.done == ["a"] * 3 + ["b"] * 3
    turns.close()


def test_failures_and_cancellations(work: Work) -> None:
    """What fails fails for who asked, what was cancelled is not done, and the rest goes on."""
    failing = work.turns.submit(failing_with(ValueError("broken")), "a")
    cancelled, fine = work.submit("cancelled", "b", 2), work.submit("fine", "b", 1)
    assert cancelled.cancel()
    work.gate.set()
    with pytest.raises(ValueError, match="broken"):
        failing.result(PATIENCE_S)
    assert fine.result(PATIENCE_S) == "fine"
    assert work.done == ["fine"]


def test_close(work: Work) -> None:
    """Who waits when the threads end is told."""
    endless, waiting = work.submit("a", "a", sys.maxsize), work.submit("b", "a", 1)
    work.gate.set()
    wait_for(lambda: work.done)
    work.turns.close()
    for each in (endless, waiting):
        with pytest.raises(CancelledError):
            each.result(PATIENCE_S)
    with pytest.raises(RuntimeError):
        work.submit("late", "a", 1)


def test_at_once() -> None:
    """Work can be done without threads."""

    def steps() -> Steps[int]:
        yield
        return 3

    assert at_once(steps()) == 3
