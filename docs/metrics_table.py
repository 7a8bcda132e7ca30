"""The table of metrics in metrics.md, as a running registry has them: `make metrics-table` writes it.

What a person wrote in its last column stays. The rest is the code's.
"""

# ruff: noqa: INP001 - a script beside what it makes, no part of a package

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric

from guard.observe.metrics import Metrics
from guard.values import Mode

PAGE = Path(__file__).parent / "metrics.md"
BEGIN, END = "<!-- metrics: made by `make metrics-table` -->", "<!-- end of metrics -->"
_HEAD = ("metric", "type", "unit", "labels", "buckets", "help", "more")
_UNITS = {"_timestamp_seconds": "Unix time", "_seconds": "seconds", "_bytes": "bytes", "_ratio": "ratio"}
_CREDENTIALS = {
    "listen.tls": ("certificate_file", "client_ca_file"),
    "upstream.tls": ("certificate_file", "ca_file"),
    "upstream.restricted_protocol": (),
}


def live() -> CollectorRegistry:
    """A registry with all that Guard exports where the policy has everything."""
    metrics = Metrics()
    metrics.watch_model(
        model="digits",
        detectors=("squeezing", "occlusion", "queries"),
        mode=Mode.ENFORCE,
        fingerprint="abc",
        false_positive_rate=0.01,
        calibration_samples=400,
        created="2025-01-02T03:04:05Z",
    )
    metrics.policy_in_force("1a2b")
    metrics.watch_engine("digits", depth=lambda: 0, busy_s=lambda: 0.0)
    metrics.watch_memory("digits", lambda: 0)
    metrics.watch_sharing("digits", lambda: True)
    metrics.watch_drift("digits", suspected=lambda: None, evidence=lambda _scope: 0.0)
    metrics.watch_selftest("digits", lambda: 0.0, 60.0)
    metrics.watch_audit(lambda: 0)
    for section, files in _CREDENTIALS.items():
        metrics.watch_credentials(section, lambda: False, {f"{section}.{file}": lambda: 0.0 for file in files})
    return metrics.registry


def _rows(registry: CollectorRegistry) -> Iterator[tuple[str, ...]]:
    """Name, type, unit, labels, buckets and help of each metric, by the name that a query uses."""
    for family in registry.collect():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = dict.fromkeys(label for sample in family.samples for label in sample.labels if label != "le")
        unit = next((unit for end, unit in _UNITS.items() if family.name.endswith(end)), "")
        quoted = ", ".join(f"`{label}`" for label in labels)
        yield f"`{name}`", family.type, unit, quoted, ", ".join(_buckets(family)), family.documentation


def _buckets(family: Metric) -> list[str]:
    bounds = dict.fromkeys(sample.labels["le"] for sample in family.samples if "le" in sample.labels)
    return [f"{float(bound):g}" for bound in bounds if bound != "+Inf"]


def page(text: str) -> str:
    """A page with the table in it made anew.

    Raises:
        ValueError: its marks are not there.
    """
    before, mark, rest = text.partition(BEGIN)
    table, end, after = rest.partition(END)
    if not (mark and end):
        raise ValueError(f"{PAGE.name} lacks the lines {BEGIN!r} and {END!r}, between which the table goes")
    more = dict(re.findall(r"^\| (`\w+`) \|.*\| ?(.*?) \|$", table, re.MULTILINE))
    rows = [_HEAD, ("---",) * len(_HEAD), *((*row, more.get(row[0], "")) for row in _rows(live()))]
    lines = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    return f"{before}{mark}\n{re.sub(' +', ' ', lines)}{end}{after}"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
