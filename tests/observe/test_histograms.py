"""Guard's histograms are such that Prometheus 3 makes native ones with custom buckets of them, without a loss.

It takes the bounds of a series' buckets as they are, and in each bucket what the one before has not. So the bounds must
ascend and end in infinity, counts must never fall, and what is counted in all must be what the last bucket holds.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import pairwise

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text

from guard.observe.metrics import Metrics
from guard.values import Decision

Series = dict[tuple[tuple[str, str], ...], dict[str, float]]
FORMATS = {
    "text": lambda registry: read_text(generate_latest(registry).decode()),
    "openmetrics": lambda registry: read_openmetrics(generate_openmetrics(registry).decode()),
}


def series_of(family: Metric) -> Series:
    """What each series of a histogram exposes: `_sum`, `_count`, and each bucket by its bound, in the page's order."""
    found: Series = defaultdict(dict)
    for sample in family.samples:
        labels = tuple((name, value) for name, value in sample.labels.items() if name != "le")
        found[labels][sample.labels.get("le", sample.name.removeprefix(family.name))] = sample.value
    return found


@pytest.mark.parametrize("form", sorted(FORMATS))
def test_each_converts(metrics: Metrics, decision: Decision, form: str) -> None:
    """Each series of each histogram meets all of it, in both formats that Prometheus asks for."""
    spread = [replace(item, p_value=p) for item in decision.items for p in (0.0005, 0.003, 0.05, 0.3, 1.0)]
    metrics.decided(replace(decision, items=tuple(spread)))
    for seconds in (0.0, 0.0005, 0.004, 3.0, 99.0):
        metrics.request_finished(
            decision=decision, model="digits", protocol="grpc", duration_s=seconds, overhead_s=seconds
        )
        metrics.upstream_finished(model="digits", code="OK", duration_s=seconds)
    read: Callable[[CollectorRegistry], Iterable[Metric]] = FORMATS[form]
    families = [family for family in read(metrics.registry) if family.type == "histogram"]
    assert len(families) == 5
    for family in families:
        series = series_of(family)
        assert sum(each["_count"] for each in series.values()) > 2
        assert len({tuple(each) for each in series.values()}) == 1, "all series of one have the same bounds"
        for each in series.values():
            total, count = each.pop("_sum"), each.pop("_count")
            bounds = [float(bound) for bound in each]
            assert all(low < high for low, high in pairwise(bounds))
            assert math.isinf(bounds[-1])
            assert all(map(math.isfinite, (*bounds[:-1], total)))
            native = [high - low for low, high in pairwise((0.0, *each.values()))]
            assert min(native) >= 0
            assert sum(native) == count
