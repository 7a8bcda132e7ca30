"""Every metric that rules and dashboards read is exported by Guard, with these labels, or by the server beside it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry

from docs import metrics_table
from tests.deploy.rules import ROOT, rules

DASHBOARDS = sorted((ROOT / "deploy" / "grafana").glob("*.json"))
FOREIGN = {"up", "ALERTS", "nv_inference_request_success"}
"""What Prometheus itself adds, and what Triton exports: tests/e2e/test_counts.py reads that from a real one."""

ADDED = {"job", "namespace", "instance", "le", "version"}
"""Labels that Prometheus, Kubernetes, histograms and Triton add."""


@pytest.fixture(scope="module")
def registry() -> CollectorRegistry:
    """All that Guard exports once it has a model."""
    return metrics_table.live()


def expressions() -> list[tuple[str, str]]:
    """(where, expression) of each rule and each panel."""
    found = [
        (rule.get("alert", rule.get("record")), rule["expr"]) for kind in ("record", "alert") for rule in rules(kind)
    ]
    return found + [(path.name, query) for path in DASHBOARDS for query in queries(json.loads(path.read_text()))]


def queries(part: object) -> Iterator[str]:
    """The expressions anywhere in a dashboard."""
    if isinstance(part, dict):
        if isinstance(part.get("expr"), str):
            yield part["expr"]
        for each in part.values():
            yield from queries(each)
    elif isinstance(part, list):
        for each in part:
            yield from queries(each)


@pytest.mark.parametrize(("where", "expression"), expressions())
def test_each_metric_is_exported(registry: CollectorRegistry, where: str, expression: str) -> None:
    """Names are those of a running registry or of a recording rule; matched labels are the metric's, values exist."""
    known = {sample.name: family for family in registry.collect() for sample in family.samples}
    recorded = {rule["record"] for rule in rules("record")}
    names = re.findall(r"\b(?:(?:guard|nv)[_:][a-z0-9_:]+|(?:up|ALERTS)(?={))", re.sub(r'"[^"]*"', '""', expression))
    assert names or "vector(" in expression, where
    assert {name for name in names if name not in known} <= recorded | FOREIGN, where
    for name, selector in re.findall(r"\b(guard_[a-z_]+)\{([^}]*)\}", expression):
        for label, sign, value in re.findall(r'([a-z]+)(=~|!=|=)"([^"]*)"', selector):
            values = {sample.labels.get(label) for sample in known[name].samples} - {None}
            assert values or label in ADDED, f"{where}: {name} has no label {label}"
            if sign != "=~" and "$" not in value:
                assert value in values | {"other"}, f"{where}: {name} has no {label}={value}"
            elif "$" not in value:
                assert all(each in values for each in value.split("|")), f"{where}: {name}, {label}: {value}"


def test_names_are_looked_for() -> None:
    """The test above is not blind: among what it reads are rules, and dashboards where there are any."""
    found = {where for where, _ in expressions()}
    assert {"GuardBypassSuspected", "guard:detections:ratio5m", *(path.name for path in DASHBOARDS)} <= found
