"""deploy/kubernetes as it is rendered: what the API server would be given, overlay by overlay."""

from __future__ import annotations

import json
import os
import re
import runpy
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from jsonschema import Draft202012Validator
from kubernetes_validate.utils import SchemaNotFoundError

from guard import __version__
from guard.observe.metrics import Metrics
from tests.deploy.rendered import (
    ALL,
    KUBERNETES,
    LINK,
    container,
    containers,
    needs_kubectl,
    pod,
    policy,
    render,
    resource,
    resources,
)

pytestmark = needs_kubectl
RESTRICTED_VOLUMES = {"configMap", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
CUSTOM = {"PodMonitor", "PrometheusRule"}
DRA = "overlays/gpu-dra"  # wants resource.k8s.io/v1, which is there from 1.34
GUARDED = [LINK, "guard", "triton"]


@pytest.mark.parametrize("version", ["1.29", "1.33", "1.37"])
def test_the_api_takes_it(version: str) -> None:
    """Every resource is valid, and has no field that the API doesn't know, from the first Kubernetes with sidecars."""
    folders = [folder for folder in ALL if folder != DRA or version == "1.37"]
    different = {json.dumps(each): each for folder in (*folders, "loader") for each in render(folder)}
    for each in different.values():
        if each["kind"] in CUSTOM:
            with pytest.raises(SchemaNotFoundError):
                kubernetes_validate.validate(each, version, strict=True)
        else:
            kubernetes_validate.validate(each, version, strict=True)


@pytest.mark.skipif("GUARD_CRDS" not in os.environ, reason="set GUARD_CRDS to a folder with the operator's CRDs")
@pytest.mark.parametrize(
    ("kind", "file"), [("PodMonitor", "podmonitors.yaml"), ("PrometheusRule", "prometheusrules.yaml")]
)
def test_the_operator_takes_it(kind: str, file: str) -> None:
    """Custom resources are valid by their own schemas, and have no field that those don't know."""
    crd = yaml.safe_load((Path(os.environ["GUARD_CRDS"]) / file).read_text())
    (schema,) = (v["schema"]["openAPIV3Schema"] for v in crd["spec"]["versions"] if v["name"] == "v1")
    schema["properties"]["metadata"] = {}  # which is Kubernetes' own
    Draft202012Validator(_strict(schema)).validate(resource("overlays/monitored", kind))


def _strict(schema: Any) -> Any:
    """The same schema, refusing what it doesn't name."""
    if isinstance(schema, list):
        return [_strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _strict(value) for key, value in schema.items()}
    return {"additionalProperties": False, **closed} if isinstance(schema.get("properties"), dict) else closed


@pytest.mark.parametrize("folder", ALL)
def test_pod_security(folder: str) -> None:
    """The pod meets the standard `restricted`, as of 1.34; Guard's containers write nothing but their volumes."""
    spec = pod(folder)
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"} & spec.keys()
    assert {key for volume in spec["volumes"] for key in volume} - {"name"} <= RESTRICTED_VOLUMES
    for each in containers(folder):
        security = each["securityContext"]
        assert security["allowPrivilegeEscalation"] is False
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert "hostPort" not in str(each.get("ports"))
        assert not re.search(r"'host': ", str(each)), "a probe with a host is refused by the standard"
        if each["name"] in {"guard", LINK}:
            assert security["runAsNonRoot"] is True
            assert security["runAsUser"] > 0
            assert security["readOnlyRootFilesystem"] is True


@pytest.mark.parametrize("folder", [each for each in ALL if each != "overlays/existing"])
def test_the_namespace_demands_it(folder: str) -> None:
    """The namespace enforces the standard, and everything but the namespace itself is in it."""
    namespace = resource(folder, "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    names = {each["metadata"].get("namespace") for each in render(folder) if each["kind"] != "Namespace"}
    assert names == {namespace["metadata"]["name"]}


def test_the_loader() -> None:
    """The pod that fills the volumes meets the standard, names volumes that the base has, and is an image of Guard."""
    loader, claims = resource("loader", "Pod")["spec"], resources("base", "PersistentVolumeClaim")
    assert {each["persistentVolumeClaim"]["claimName"] for each in loader["volumes"]} == {
        each["metadata"]["name"] for each in claims
    }
    (only,) = loader["containers"]
    assert only["image"] == f"guard:{__version__}"
    assert loader["securityContext"]["runAsNonRoot"] is True
    assert loader["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert only["securityContext"]["allowPrivilegeEscalation"] is False
    assert only["securityContext"]["capabilities"] == {"drop": ["ALL"]}


@pytest.mark.parametrize("folder", ALL)
def test_containers_and_their_order(folder: str) -> None:
    """The secret is drawn first, then Guard starts as a native sidecar, then the server: each overlay keeps that."""
    assert [each["name"] for each in containers(folder)] == GUARDED
    assert container(folder, "guard")["restartPolicy"] == "Always"
    assert "restartPolicy" not in container(folder, LINK)
    images = {container(folder, name)["image"] for name in ("guard", LINK)}
    assert {image.removesuffix("-gpu") for image in images} == {f"guard:{__version__}"}


@pytest.mark.parametrize("folder", ALL)
def test_the_server_is_out_of_reach(folder: str) -> None:
    """Triton listens on loopback, with the secret for each of its protocols; services lead to Guard."""
    triton = container(folder, "triton")
    script = triton["command"][2]
    for option in ("grpc", "http", "metrics"):
        assert f"--{option}-address=127.0.0.1" in script
    for endpoint in ("http", "sagemaker", "vertex-ai"):
        assert f"--allow-{endpoint}=false" in script
    wanted = "health,metadata,inference,shared-memory,model-config,model-repository,statistics,trace,logging"
    assert f"everything={wanted}\n" in script
    assert '"--grpc-restricted-protocol=$everything:guard=$secret"' in script
    upstream = policy(folder)["upstream"]
    assert upstream["address"] == "127.0.0.1:8001"
    assert upstream["metrics_address"] == "127.0.0.1:8002"
    assert upstream["restricted_protocol"] == {"key": "guard", "value_file": f"/run/{LINK}/secret"}
    for service in resources(folder, "Service"):
        assert {port["port"]: port["targetPort"] for port in service["spec"]["ports"]} == {8001: 8011, 8000: 8010}


@pytest.mark.parametrize("folder", ALL)
def test_no_secret_is_committed(folder: str) -> None:
    """No secret is among the resources. The pod's own is in memory, written by one container and read by two."""
    assert resources(folder, "Secret") == []
    (volume,) = (each for each in pod(folder)["volumes"] if each["name"] == LINK)
    assert volume["emptyDir"]["medium"] == "Memory"
    mounts = {
        each["name"]: mount.get("readOnly", False)
        for each in containers(folder)
        for mount in each["volumeMounts"]
        if mount["name"] == LINK
    }
    assert mounts == {LINK: False, "guard": True, "triton": True}
    (noise,) = (each for each in pod(folder)["volumes"] if each["name"] == "guard-noise")
    assert noise["secret"] == {"secretName": "guard-noise"}, "not optional: without it no pod starts"


@pytest.mark.parametrize("folder", ALL)
def test_probes_cannot_deadlock(folder: str) -> None:
    """Guard starts and lives whatever Triton does; being ready includes it. Triton's probes go where they arrive."""
    guard, triton = container(folder, "guard"), container(folder, "triton")
    paths = {name: guard[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "liveness", "readiness")}
    assert paths == {"startup": "/livez", "liveness": "/livez", "readiness": "/readyz"}
    asked = {name: triton[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "liveness", "readiness")}
    assert asked == {"startup": "/upstream/readyz", "liveness": "/upstream/livez", "readiness": "/upstream/readyz"}
    admin = int(policy(folder)["listen"]["admin_address"].rpartition(":")[2])
    for each in (guard, triton):
        probes = [each[f"{name}Probe"] for name in ("startup", "liveness", "readiness")]
        assert {probe["httpGet"]["port"] for probe in probes} == {admin}
        assert all(probe.keys() & {"exec", "grpc", "tcpSocket"} == set() for probe in probes)
    # Guard must be restarted, several times, before Triton is, whose health is asked through it.
    patience_s = {each["name"]: _patience_s(each["livenessProbe"]) for each in (guard, triton)}
    assert patience_s["triton"] >= 3 * patience_s["guard"]


def _patience_s(probe: dict[str, Any]) -> int:
    return int(probe["periodSeconds"]) * int(probe["failureThreshold"])


@pytest.mark.parametrize("folder", ALL)
def test_the_end(folder: str) -> None:
    """Guard drains, Triton waits for it, and the grace period has room for both one after the other."""
    guard, triton = container(folder, "guard"), container(folder, "triton")
    assert guard["lifecycle"]["preStop"]["exec"]["command"] == ["sh", "-c", "kill -USR1 1"]
    assert triton["lifecycle"]["preStop"]["httpGet"] == {"path": "/wait-for-drain", "port": 9011}
    listen = policy(folder)["listen"]
    models_s = [int(arg.partition("=")[2]) for arg in triton["args"] if arg.startswith("--exit-timeout-secs=")]
    needed_s = listen["drain_delay_s"] + listen["drain_grace_s"] + (models_s or [30])[0] + 5
    assert pod(folder)["terminationGracePeriodSeconds"] >= needed_s


@pytest.mark.parametrize("folder", ALL)
def test_resources(folder: str) -> None:
    """Every container of ours says what it needs and how much memory it may take."""
    names = GUARDED if folder != "overlays/existing" else [LINK, "guard"]
    for name in names:
        wants = container(folder, name)["resources"]
        assert wants["requests"]["memory"]
        assert wants["limits"]["memory"]


@pytest.mark.parametrize("folder", ALL)
def test_others_select_the_pods(folder: str) -> None:
    """Whatever selects pods by label selects these; the network policy lets in what listens, and nothing else."""
    labels = resource(folder, "Deployment")["spec"]["template"]["metadata"]["labels"].items()
    network, budget = resource(folder, "NetworkPolicy")["spec"], resource(folder, "PodDisruptionBudget")["spec"]
    for selector in (network["podSelector"], budget["selector"], *(s["spec"] for s in resources(folder, "Service"))):
        assert selector.get("matchLabels", selector.get("selector")).items() <= labels
    assert network["policyTypes"] == ["Ingress", "Egress"]
    assert {port["port"] for rule in network["ingress"] for port in rule["ports"]} == {8010, 8011, 9011}
    ports = {port["port"] for rule in network["egress"] for port in rule["ports"]}
    assert ports == ({6379, 53} if folder == "overlays/redis" else set())


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
