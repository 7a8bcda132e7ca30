"""Rates and p-values, read from the metrics themselves."""

from __future__ import annotations

import pytest

from guard.console.readings import WINDOW_S, History, per_second, verdicts
from guard.observe.metrics import Metrics
from guard.values import Action, Evidence, ItemDecision, Mode, Verdict
from tests.audit.parts import decision, rejected


class Clock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        """What time it is."""
        return self.now_s


@pytest.fixture
def metrics() -> Metrics:
    """Metrics of one model."""
    made = Metrics()
    made.watch_model(
        model="digits",
        detectors=("squeezing",),
        mode=Mode.ENFORCE,
        fingerprint="abc",
        false_positive_rate=0.05,
        calibration_samples=99,
        created="2025-01-02T03:04:05Z",
    )
    return made


def finish(metrics: Metrics, action: Action, times: int) -> None:
    """Count requests."""
    for _ in range(times):
        metrics.request_finished(
            decision=decision(Verdict.CLEAN, action), model="digits", protocol="grpc", duration_s=0.1, overhead_s=0.1
        )


def test_rates(metrics: Metrics) -> None:
    """Requests are told a second, from look to look and over longer, by what was done with them."""
    clock = Clock()
    history = History(metrics.registry, now_s=clock)
    for forwarded, rejected_ones in ((0, 0), (10, 2), (30, 0)):
        finish(metrics, Action.FORWARD, forwarded)
        finish(metrics, Action.REJECT, rejected_ones)
        history.look()
        clock.now_s += 2.0
    assert per_second(history.stretches(), Action.FORWARD) == [5.0, 15.0]
    assert per_second(history.stretches(), Action.REJECT) == [1.0, 0.0]
    assert history.last().requests(Action.FORWARD) / history.last().seconds == 10.0
    assert history.last(2.0).requests(Action.FORWARD) == 30


def test_old_looks_are_forgotten(metrics: Metrics) -> None:
    """Memory is bounded: what is older than the window counts no more."""
    clock = Clock()
    history = History(metrics.registry, now_s=clock)
    history.look()
    finish(metrics, Action.FORWARD, 5)
    for _ in range(400):
        clock.now_s += 2.0
        history.look()
    assert history.last().requests(Action.FORWARD) == 0
    assert history.last().seconds == WINDOW_S
    assert history.last().after.requests[Action.FORWARD] == 5


def test_p_values_and_verdicts(metrics: Metrics) -> None:
    """p-values are counted in each range, and items by verdict."""
    history = History(metrics.registry)
    history.look()
    metrics.decided(rejected())  # p = .004
    clean = ItemDecision(Verdict.CLEAN, 0.6, (Evidence("squeezing", 0.1, 1, p_value=0.3),))
    metrics.decided(decision(items=(clean, clean)))
    history.look()
    seen = history.last()
    assert seen.p_values("digits", "combined") == (0, 1, 0, 0, 0, 0, 0, 2, 0, 0)
    assert seen.p_values("digits", "squeezing") == (0, 0, 0, 0, 0, 0, 2, 0, 0, 0)
    assert verdicts(seen, "digits") == {
        Verdict.CLEAN: 2,
        Verdict.ADVERSARIAL: 1,
        Verdict.ABSTAIN: 0,
        Verdict.UNSCREENED: 0,
    }


def test_counters_that_begin_anew(metrics: Metrics) -> None:
    """A model that was taken out of the policy and put back has counted from 0: no rate is negative."""
    history = History(metrics.registry)
    metrics.decided(rejected())
    metrics.decided(rejected())
    history.look()
    metrics.forget_model("digits")
    history.look()
    assert history.last().items("digits", Verdict.ADVERSARIAL) == 0
    metrics.decided(rejected())
    history.look()
    assert history.last().items("digits", Verdict.ADVERSARIAL) <= 1


def test_a_busy_engine(metrics: Metrics) -> None:
    """The share of its time that an engine worked; a new engine in its place counts from 0."""
    clock, busy = Clock(), {"digits": 5.0}
    history = History(metrics.registry, lambda: busy, now_s=clock)
    history.look()
    clock.now_s += 10.0
    busy = {"digits": 9.0}
    history.look()
    assert history.last().busy("digits") == pytest.approx(0.4)
    clock.now_s += 10.0
    busy = {"digits": 1.0}
    history.look()
    assert history.last(10.0).busy("digits") == pytest.approx(0.1)
