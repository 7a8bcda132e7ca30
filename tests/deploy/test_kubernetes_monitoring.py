"""What watches Guard in deploy/kubernetes, as it is rendered: the operator's resources, and the autoscaler."""

from __future__ import annotations

import json
import runpy
from copy import deepcopy
from typing import Any

import pytest
from cloudcoil.models.prometheus_operator import v1 as prometheus_operator
from jsonschema import Draft202012Validator, ValidationError

from guard.config import ModelPolicy
from guard.observe.metrics import Metrics
from tests.deploy.rendered import ALL, CUSTOM, KUBERNETES, container, needs_kubectl, resource, resources
from tests.deploy.rules import OVERHEAD_LIMIT, ROOT, cpu_limit_s, groups

pytestmark = needs_kubectl


@pytest.mark.parametrize("kind", sorted(CUSTOM))
def test_the_operator_takes_it(kind: str) -> None:
    """Custom resources are valid by the schemas of their definitions, and have no field that those don't know."""
    (each,) = {json.dumps(each): each for folder in ALL for each in resources(folder, kind)}.values()
    Draft202012Validator(_defined(kind)).validate(each)


@pytest.mark.parametrize(
    ("kind", "path", "wrong"),
    [
        ("PodMonitor", ("podMetricsEndpoints", 0, "interval"), "15 seconds"),
        ("PodMonitor", ("podMetricsEndpoints", 0, "ports"), "guard-admin"),
        ("PodMonitor", ("podMetricsEndpoints", 0, "relabelings", 0, "action"), "rename"),
        ("PodMonitor", ("selector",), None),
        ("PrometheusRule", ("groups", 0, "rules", 0, "for"), "2 minutes"),
        ("PrometheusRule", ("groups", 0, "rules", 0, "severity"), "critical"),
    ],
)
def test_the_operator_refuses_mistakes(kind: str, path: tuple[Any, ...], wrong: object) -> None:
    """A wrong value and a field that isn't known are found: the test above is not blind."""
    mistaken = deepcopy(resource("overlays/monitored", kind))
    within = mistaken["spec"]
    for step in path[:-1]:
        within = within[step]
    within[path[-1]] = wrong
    with pytest.raises(ValidationError):
        Draft202012Validator(_defined(kind)).validate(mistaken)


def _defined(kind: str) -> dict[str, Any]:
    """The operator's schema, as a package of models has it. It takes null too, where it knows a default."""
    schema = getattr(prometheus_operator, kind).model_json_schema(by_alias=True)
    schema["properties"]["metadata"] = {}  # which is Kubernetes' own
    closed: dict[str, Any] = _strict(schema)
    return closed


def _strict(schema: Any) -> Any:
    """The same schema, refusing what it doesn't name."""
    if isinstance(schema, list):
        return [_strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _strict(value) for key, value in schema.items()}
    return {"additionalProperties": False, **closed} if isinstance(schema.get("properties"), dict) else closed


def test_monitoring() -> None:
    """The pod monitor and the autoscaler ask for a port and a metric that are there."""
    monitored = "overlays/monitored"
    endpoints = resource(monitored, "PodMonitor")["spec"]["podMetricsEndpoints"]
    assert {each["path"] for each in endpoints} == {"/metrics", "/upstream/metrics"}
    named = {port["name"]: port["containerPort"] for port in container(monitored, "guard")["ports"]}
    assert {named[each["port"]] for each in endpoints} == {9011}
    scaler, deployment = resource(monitored, "HorizontalPodAutoscaler")["spec"], resource(monitored, "Deployment")
    (metric,) = (each["pods"]["metric"]["name"] for each in scaler["metrics"])
    assert metric in {family.name for family in Metrics().registry.collect()}
    assert scaler["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert "replicas" not in deployment["spec"]


def test_rules_and_dashboards_are_current() -> None:
    """What `make kubernetes` makes of deploy/prometheus and deploy/grafana is what is committed."""
    made = runpy.run_path(str(KUBERNETES / "collect.py"))["collect"]()
    assert len(made) == 2
    for path, text in made.items():
        assert path.read_text() == text, "run `make kubernetes`"


def test_the_limit_for_cpus() -> None:
    """On CPUs an alert of slow requests has a limit that fits: below where they pass unscreened, by nothing else."""
    limit_s = cpu_limit_s()
    assert 0.1 <= limit_s <= ModelPolicy.model_fields["screening_budget_s"].default / 2
    assert container("overlays/monitored", "guard")["resources"]["limits"].keys() == {"memory"}, "not a GPU"
    ours = groups()
    changed = [rule for group in ours for rule in group["rules"] if rule.get("record") == OVERHEAD_LIMIT]
    assert [rule["expr"] for rule in changed] == ["vector(0.025)"]
    changed[0]["expr"] = f"vector({limit_s:g})"
    assert resource("overlays/monitored", "PrometheusRule")["spec"]["groups"] == ours


@pytest.mark.parametrize("page", ["metrics.md", "first-alert.md", "runbooks/GuardOverheadHigh.md"])
def test_pages_name_the_limit_for_cpus(page: str) -> None:
    """The documents say the number that the overlay has."""
    assert f"{cpu_limit_s():g} s " in (ROOT / "docs" / page).read_text().replace("\n", " ")
