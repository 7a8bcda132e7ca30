"""A real Prometheus 3 makes native histograms of Guard's, by the settings in docs/metrics.md, and loses no count.

`make ops-test` runs it, with what tests/ops/prometheus3.sh unpacks; it takes a minute.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import yaml

from tests.ops.guarded import guarded
from tests.ops.traffic import sending
from tests.ops.watchers import FOLDER, Prometheus, running, wait_for
from tests.support import digits
from tests.support.ports import free_ports

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "build" / "prometheus3" / "usr" / "bin" / "prometheus"
PAGE = ROOT / "docs" / "metrics.md"
FAMILIES = 5
pytestmark = pytest.mark.skipif(
    not PROMETHEUS.exists(), reason="no Prometheus 3: tests/ops/prometheus3.sh takes it from Debian's testing"
)


def settings(guard_port: int) -> dict[str, Any]:
    """The configuration that Guard ships, with what its page on metrics says of native histograms."""
    config: dict[str, Any] = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    (section,) = re.findall(r"^## Histograms$(.*?)^## ", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    said = dict(re.findall(r"`(\w+): (true)`", section))
    assert said
    guard = config["scrape_configs"][0] | dict.fromkeys(said, True)
    guard["static_configs"] = [{"targets": [f"127.0.0.1:{guard_port}"]}]
    return {"global": {"scrape_interval": "1s"}, "scrape_configs": [guard]}


def options() -> list[str]:
    """What the page says that it is started with."""
    (feature,) = re.findall(r"the feature `([\w-]+)` enabled", PAGE.read_text())
    return [f"--enable-feature={feature}"]


def at(prometheus: Prometheus, expression: str, at_s: float) -> list[dict[str, Any]]:
    """What an expression has at a moment."""
    found: list[dict[str, Any]] = prometheus.ask(f"query?time={at_s}&query={quote(expression)}")["result"]
    return found


def compared(prometheus: Prometheus, family: str, at_s: float) -> int:
    """How many series of a histogram there are at a moment, each with the same counts in both forms."""
    native = at(prometheus, family, at_s)
    for each in native:
        labels = ",".join(f'{name}="{value}"' for name, value in each["metric"].items() if name != "__name__")
        classic = {
            float(one["metric"]["le"]): float(one["value"][1])
            for one in at(prometheus, f"{family}_bucket{{{labels}}}", at_s)
        }
        histogram = each["histogram"][1]
        below, counts = 0.0, {}
        for bound, up_to in sorted(classic.items()):
            if up_to > below:
                counts[bound] = up_to - below
            below = up_to
        assert {float(high): float(count) for _, _, high, count in histogram.get("buckets", [])} == counts, labels
        assert float(histogram["count"]) == below, labels
    assert len(native) == len(at(prometheus, f"{family}_count", at_s))
    return len(native)


def test_no_count_is_lost(tmp_path: Path) -> None:
    """Each native histogram has the classic one's bounds, and in each bucket its count."""
    (port,) = free_ports(1)
    images = digits.load_data().test[0]
    with guarded(tmp_path) as (sidecar, _):
        (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(settings(sidecar.admin_port)))
        own = [f"--storage.tsdb.path={tmp_path / 'series'}", *options()]
        with running(PROMETHEUS, tmp_path / "prometheus.yml", port, own):
            prometheus = Prometheus(port)
            with sending(sidecar.http_port, images, ["127.0.0.10", "127.0.0.11"], pace_s=0.1):
                wait_for(lambda: (prometheus.value("guard_request_duration_seconds_count") or 0) > 50)
                wait_for(lambda: (prometheus.value("histogram_count(guard_request_duration_seconds)") or 0) > 50)
            at_s = prometheus.value("timestamp(guard_build_info)")
            assert at_s is not None
            buckets = at(prometheus, 'count by (__name__) ({__name__=~"guard_.*_bucket"})', at_s)
            families = [each["metric"]["__name__"].removesuffix("_bucket") for each in buckets]
            series = {family: compared(prometheus, family, at_s) for family in families}
            p_values = "sum(guard_detector_pvalue_ratio{detector='combined'})"
            within = prometheus.value(f"histogram_fraction(0, 0.5, {p_values})")
    assert len(families) == FAMILIES
    assert min(series.values()) > 0
    assert within is not None
    assert 0.1 < within < 0.9
