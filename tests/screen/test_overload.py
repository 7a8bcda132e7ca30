"""An engine with more to do than it can: who is let in, who leaves, and who is refused for what it would take."""

from __future__ import annotations

import threading
import time

import pytest
import torch
from torch import Tensor

from guard.errors import Overloaded
from guard.profile import spec
from guard.screen.build import build_detectors
from tests.screen.parts import TIMEOUT_S, FakeBackend, HeldBackend, item, numbers, running, steady

DETECTORS = build_detectors([spec.ConfidenceSpec()])


class SlowBackend(FakeBackend):
    """A replica that takes its time for each batch, and can be held up."""

    ITEM_S = 0.1

    def __init__(self) -> None:
        super().__init__(steady, batch=1)
        self.hold = threading.Event()
        self.hold.set()
        self.entered = threading.Event()

    def logits(self, x: Tensor) -> Tensor:
        """Answer, in the end."""
        if not self.hold.is_set():
            self.entered.set()
        assert self.hold.wait(TIMEOUT_S)
        time.sleep(self.ITEM_S)  # the pace is what is measured
        return super().logits(x)


def test_eviction() -> None:
    """A job that leaves the queue for another client's fails with Overloaded, and is not screened."""
    backend = HeldBackend(steady)
    with running(backend, DETECTORS, max_queued_items=2, max_live_items=1) as engine:
        live = engine.submit(item(1), client="a")
        assert backend.entered.wait(TIMEOUT_S)
        kept, evicted = (engine.submit(item(n), client="a") for n in (2, 3))
        newcomer = engine.submit(item(4), client="b")
        with pytest.raises(Overloaded, match="this client has more of it"):
            evicted.result(TIMEOUT_S)
        with pytest.raises(Overloaded, match="2 items are waiting"):
            engine.submit(item(5), client="a")
        assert engine.depth == 2
        backend.release.set()
        assert [future.result(TIMEOUT_S).label for future in (live, kept, newcomer)] == [1, 1, 1]
    assert numbers(torch.cat(backend.batches)) == {1, 2, 4}


def test_evicted_and_cancelled() -> None:
    """A job that nobody waits for any more may be evicted too."""
    backend = HeldBackend(steady)
    with running(backend, DETECTORS, max_queued_items=2, max_live_items=1) as engine:
        engine.submit(item(1), client="a")
        assert backend.entered.wait(TIMEOUT_S)
        engine.submit(item(2), client="a")
        assert engine.submit(item(3), client="a").cancel()
        newcomer = engine.submit(item(4), client="b")
        backend.release.set()
        assert newcomer.result(TIMEOUT_S).label == 1


def test_clients_take_turns() -> None:
    """A client that hands in one item waits for one of the others', not for all."""
    backend = HeldBackend(steady, batch=1)
    with running(backend, DETECTORS, max_live_items=1) as engine:
        futures = [engine.submit(item(1), client="a")]
        assert backend.entered.wait(TIMEOUT_S)
        futures += [engine.submit(item(n), client="a") for n in (2, 3, 4)]
        futures.append(engine.submit(item(5), client="b"))
        backend.release.set()
        for future in futures:
            future.result(TIMEOUT_S)
    assert [numbers(batch) for batch in backend.batches] == [{1}, {2}, {5}, {3}, {4}]


def test_hopeless() -> None:
    """Where items wait, one that can't be screened in time is refused at the door, and only that."""
    backend, held = SlowBackend(), threading.Event()
    with running(backend, DETECTORS, max_live_items=1) as engine:
        engine.submit(item(1)).result(TIMEOUT_S)
        backend.hold = held
        live = engine.submit(item(1))
        assert backend.entered.wait(TIMEOUT_S)
        # Half an item live and none waiting: whether that is time enough is not foretold.
        queued = engine.submit(item(2), deadline_s=SlowBackend.ITEM_S / 10)
        with pytest.raises(Overloaded, match=r"1 item is waiting.* takes about \d+ ms, and there are 10 ms"):
            engine.submit(item(3), deadline_s=SlowBackend.ITEM_S / 10)
        patient = engine.submit(item(4), deadline_s=1000 * SlowBackend.ITEM_S)
        timeless = engine.submit(item(5))
        held.set()
        assert [future.result(TIMEOUT_S).label for future in (live, patient, timeless)] == [1, 1, 1]
        assert queued.exception(TIMEOUT_S) is not None  # its time ran out while it waited
    assert numbers(torch.cat(backend.batches)) == {1, 4, 5}


def test_another_clients_queue_is_not_held_against_one() -> None:
    """A client with nothing waiting is let in although another one's queue is longer than its deadline."""
    backend, held = SlowBackend(), threading.Event()
    with running(backend, DETECTORS, max_live_items=1) as engine:
        engine.submit(item(1)).result(TIMEOUT_S)
        backend.hold = held
        waiting = [engine.submit(item(1), client="a")]
        assert backend.entered.wait(TIMEOUT_S)
        waiting += [engine.submit(item(2), client="a") for _ in range(200)]
        short = 60 * SlowBackend.ITEM_S
        with pytest.raises(Overloaded, match="200 items are waiting"):
            engine.submit(item(3), client="a", deadline_s=short)
        newcomer = engine.submit(item(4), client="b", deadline_s=short)
        held.set()
        assert newcomer.result(TIMEOUT_S).label == 1
        for each in waiting:
            each.cancel()


def test_learns_from_items_that_expire() -> None:
    """Where every item runs out of time, what they cost is known all the same, and later ones are refused."""
    detectors = build_detectors([spec.SensitivitySpec(mutation=spec.Gaussian(sigma=0.1), p0=0.02, p1=0.2)])
    refused = 0
    with running(SlowBackend(), detectors, max_live_items=1) as engine:
        for _ in range(30):
            try:
                engine.submit(item(1), deadline_s=5 * SlowBackend.ITEM_S)
            except Overloaded:
                refused += 1
            time.sleep(SlowBackend.ITEM_S)
    assert refused > 5


def test_never_when_idle() -> None:
    """An engine with nothing to do takes what is hopeless by its pace: the pace may be wrong, or past."""
    backend = SlowBackend()
    with running(backend, DETECTORS) as engine:
        engine.submit(item(1)).result(TIMEOUT_S)
        assert engine.live == 0
        engine.submit(item(2), deadline_s=SlowBackend.ITEM_S / 1000).exception(TIMEOUT_S)  # it was let in
