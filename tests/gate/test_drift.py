"""Drift and common perturbations, through the gate: noted, and no verdict changed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pytest
from structlog.testing import capture_logs

from guard.decide.drift import Drift
from guard.decide.judge import Judge
from guard.observe.logs import decision_event
from guard.values import DriftScope, Fault, Float32Array, SharedPerturbation, Verdict
from tests.gate.parts import ADVERSARIAL, CLEAN, PROFILE, Start, request

BENIGN = 200


def drift() -> Drift:
    """Looks for drift away from the profile's scores, with a tenth of a percent of false alarms."""
    threshold = Judge(PROFILE, false_positive_rate=0.05).threshold
    return Drift(n=BENIGN, threshold=threshold, false_alarm=1e-3, rng=np.random.default_rng(0))


def shaky(number: int) -> tuple[float, float]:
    """A clean input, each another one, that leads by less than most benign ones do."""
    return (4.7 + number / 1024, 1.0)


async def test_drift_is_one_signal(start: Start) -> None:
    """Inputs that are all a little unusual are let through as before, and one line says that they drifted."""
    watched, plain = start(drift=drift()), start()
    with capture_logs() as logs:
        seen = [(await watched.ask(request(shaky(n)), client="camera")).verdict for n in range(100)]
    assert seen == [(await plain.screen(shaky(n))).verdict for n in range(100)]
    (line,) = [each for each in logs if each["event"].startswith("drift")]
    assert (line["log_level"], line["model"], line["scope"]) == ("warning", "digits", "one_client")
    assert line["direction"] == "more_extreme"
    assert "calibrat" in line["advice"]


async def test_ordinary_traffic(start: Start) -> None:
    """Inputs like the profile's raise nothing."""
    watched, rng = drift(), np.random.default_rng(1)
    guard = start(drift=watched)
    await_all = [await guard.screen((1.0 + float(rng.normal(5, 1)), 1.0)) for _ in range(150)]
    assert len(await_all) == 150
    assert watched.suspected is None
    assert watched.log_martingale(DriftScope.ONE_CLIENT) != 0


async def test_clients_are_told_apart(start: Start) -> None:
    """The client of a request is the one whose drift it is."""
    watched = drift()
    guard = start(drift=watched)
    for number in range(150):
        await guard.ask(request(shaky(number)), client=f"camera {number % 4}")
    assert watched.suspected is DriftScope.SEVERAL_CLIENTS


class Compared:
    """Shares a perturbation with as many as were looked at before; waits, or fails, where it is told to."""

    def __init__(self) -> None:
        self.looked: list[Float32Array] = []
        self.go = threading.Event()
        self.go.set()
        self.failure: Exception | None = None
        self.thread = ThreadPoolExecutor(1)

    def look(self, inputs: Float32Array) -> Future[tuple[SharedPerturbation, ...]]:
        """Look, on another thread."""
        return self.thread.submit(self._look, inputs)

    def _look(self, inputs: Float32Array) -> tuple[SharedPerturbation, ...]:
        self.go.wait(60)
        if self.failure:
            raise self.failure
        before = len(self.looked)
        self.looked += list(inputs)
        return tuple(SharedPerturbation("universal", before + n, before + n) for n in range(len(inputs)))


@pytest.fixture
def compared() -> Iterator[Compared]:
    """Let go in the end."""
    made = Compared()
    yield made
    made.go.set()
    made.thread.shutdown()


async def test_flagged_items_are_compared(start: Start, compared: Compared) -> None:
    """Of a batch the flagged items, and no others, are compared; log and metric tell with how many they share."""
    guard = start(universal=compared)
    await guard.screen(ADVERSARIAL)
    decision = await guard.screen(CLEAN, ADVERSARIAL, CLEAN, ADVERSARIAL)
    assert [tuple(each) for each in compared.looked] == [ADVERSARIAL] * 3
    noted = [[f.shared_with for f in i.findings if isinstance(f, SharedPerturbation)] for i in decision.items]
    assert noted == [[], [1], [], [2]]
    assert decision_event(decision)["universal"] == {"shared_with": 2, "compared_with": 2}
    assert guard.total("guard_shared_perturbations_total") == 2


async def test_clean_traffic_is_not_compared(start: Start, compared: Compared) -> None:
    """On clean items nothing is done."""
    decision = await start(universal=compared).screen(CLEAN, CLEAN)
    assert compared.looked == []
    assert decision_event(decision)["universal"] is None


@pytest.mark.parametrize("late", [True, False])
async def test_a_comparison_that_fails(start: Start, compared: Compared, *, late: bool) -> None:
    """One that fails, or is late, is a fault that is counted; the verdict stands, and nobody waits long for it."""
    compared.failure = ValueError("a bug")
    if late:
        compared.go.clear()
    guard = start(universal=compared)
    decision = await guard.screen(ADVERSARIAL)
    assert decision.verdict is Verdict.ADVERSARIAL
    assert isinstance(decision.items[0].findings[-1], Fault)
    assert guard.counted("guard_detector_errors_total")
