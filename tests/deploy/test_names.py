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
FOREIGN = {"up", "ALERTS", "nv_inference_request_success", "kube_deployment_spec_replicas"}
"""What Prometheus itself adds, what Triton exports (tests/e2e/test_counts.py reads that from a real one), and
kube-state-metrics: of its stable ones, by its own documentation."""

ADDED = {"alertname", "job", "namespace", "deployment", "pod", "instance", "le", "version"}
"""Labels that Prometheus, Kubernetes, histograms and Triton add."""

_GROUPING = r"\b(?:by|on|without|ignoring|group_left|group_right) ?\(([^)]*)\)"
_WORDS = {
    "and",
    "or",
    "unless",
    "bool",
    "offset",
    "inf",
    "by",
    "on",
    "without",
    "ignoring",
    "group_left",
    "group_right",
}


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


def metrics_in(expression: str) -> set[str]:
    """The names of metrics: words that are no function's, no label's, no operator's and no duration."""
    for aside in (r'"[^"]*"', r"\{[^}]*\}", r"\[[^\]]*\]", _GROUPING, r"offset \w+", r"\$\w+"):
        expression = re.sub(aside, " ", expression)
    return set(re.findall(r"\b[a-zA-Z_][\w:]*\b(?!\s*\()", expression)) - _WORDS


@pytest.mark.parametrize(("where", "expression"), expressions())
def test_each_metric_is_exported(registry: CollectorRegistry, where: str, expression: str) -> None:
    """Names are those of a running registry or of a recording rule; matched labels are the metric's, values exist."""
    known = {sample.name: family for family in registry.collect() for sample in family.samples}
    recorded = {rule["record"] for rule in rules("record")}
    names = metrics_in(expression)
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


@pytest.mark.parametrize(("where", "expression"), expressions())
def test_each_label_is_somebodys(registry: CollectorRegistry, where: str, expression: str) -> None:
    """What is grouped or matched by is a label of some metric or rule: with another name all would be one group."""
    exported = {label for family in registry.collect() for sample in family.samples for label in sample.labels}
    given = {label for kind in ("record", "alert") for rule in rules(kind) for label in rule.get("labels", {})}
    found = {label.strip() for labels in re.findall(_GROUPING, expression) for label in labels.split(",")} - {""}
    assert found <= exported | given | ADDED, where


def test_names_are_looked_for() -> None:
    """The test above is not blind: among what it reads are rules, and dashboards where there are any."""
    found = {where for where, _ in expressions()}
    assert {"GuardBypassSuspected", "guard:detections:ratio5m", *(path.name for path in DASHBOARDS)} <= found
