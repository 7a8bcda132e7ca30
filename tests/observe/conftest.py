"""A decision that the tests of metrics and logs share, and metrics that are scraped over HTTP."""

from __future__ import annotations

import urllib.request
from collections.abc import Callable, Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from guard.observe.admin import AdminServer
from guard.observe.metrics import Metrics
from guard.values import (
    Abstention,
    Action,
    Certificate,
    Certified,
    Decision,
    Evidence,
    Fault,
    FaultReason,
    ItemDecision,
    Mode,
    Spared,
    Verdict,
)


@pytest.fixture
def decision() -> Decision:
    """A batch of two: an adversarial item with each kind of finding, and a clean one."""
    certificate = Certificate(label=3, radius=0.5, sigma=0.25, n=32, alpha=0.001)
    adversarial = ItemDecision(
        Verdict.ADVERSARIAL,
        0.002,
        (
            Evidence("squeezing", 1.7, 4, p_value=0.03, duration_s=0.02),
            Evidence("network", 8.1, 0, p_value=0.004, duration_s=0.001),
            Abstention("smoothing", 64, "radius 0.5 not proved after 64 copies", duration_s=0.3),
            Fault("sensitivity_gaussian", FaultReason.BACKEND, duration_s=0.04),
            Spared("occlusion"),  # was not asked, so no metric speaks of it
        ),
    )
    clean = ItemDecision(
        Verdict.CLEAN,
        0.6,
        (
            Evidence("squeezing", 0.1, 4, p_value=0.7, duration_s=0.02),
            Evidence("network", -3.0, 0, p_value=None, duration_s=0.001),
            Certified("smoothing", certificate, 16, duration_s=0.1),
            Evidence("sensitivity_gaussian", 0.2, 16, p_value=0.4, duration_s=0.1),
        ),
    )
    return Decision(
        id="d-1",
        model="digits",
        mode=Mode.FLAG,
        verdict=Verdict.ADVERSARIAL,
        p_value=0.002,
        intended=Action.REJECT,
        action=Action.FLAG,
        items=(adversarial, clean),
        spent={"label": 2, "squeezing": 8, "smoothing": 80},
    )


@pytest.fixture
def metrics() -> Metrics:
    """Metrics that watch one model."""
    metrics = Metrics()
    metrics.watch_model(
        model="digits",
        detectors=("squeezing", "network", "smoothing", "sensitivity_gaussian", "queries"),
        mode=Mode.FLAG,
        fingerprint="abc",
        false_positive_rate=0.05,
        calibration_samples=400,
        created="2025-01-02T03:04:05Z",
    )
    metrics.watch_engine("digits", depth=lambda: 7, busy_s=lambda: 0.0)
    return metrics


@pytest.fixture
def exposition(metrics: Metrics) -> Iterator[Callable[[], str]]:
    """Scrapes the admin port over HTTP."""
    server = AdminServer("127.0.0.1:0", registry=metrics.registry, live=lambda: True, ready=list, policy=str)
    url = f"http://127.0.0.1:{server.start()}/metrics"

    def get() -> str:
        with urllib.request.urlopen(url, timeout=60) as response:
            return str(response.read().decode())

    yield get
    server.stop()


@pytest.fixture
def scrape(exposition: Callable[[], str]) -> Callable[[], dict[str, float]]:
    """Samples of a scrape by series, as `name{label=value,...}` with sorted labels."""

    def get() -> dict[str, float]:
        samples = [sample for family in text_string_to_metric_families(exposition()) for sample in family.samples]
        return {f"{sample.name}{{{as_text(sample.labels)}}}": sample.value for sample in samples}

    return get


def as_text(labels: dict[str, str]) -> str:
    """Labels in the order of their names."""
    return ",".join(f"{name}={value}" for name, value in sorted(labels.items()))
