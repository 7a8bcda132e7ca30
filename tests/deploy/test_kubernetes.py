"""deploy/kubernetes as it is rendered: what the API server would be given, overlay by overlay."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from kubernetes_validate.utils import SchemaNotFoundError

from guard import __version__
from tests.deploy.rendered import (
    ALL,
    CUSTOM,
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
DRA, DRA_SINCE = "overlays/gpu-dra", "1.34"  # when resource.k8s.io/v1 came
LOADERS = ["loader", "overlays/existing/loader"]
GUARDED = [LINK, "guard", "triton"]


@pytest.mark.parametrize("version", ["1.29", "1.33", "1.34", "1.37"])
def test_the_api_takes_it(version: str) -> None:
    """Every resource is valid, and has no field that the API doesn't know, from the first Kubernetes with sidecars."""
    folders = [folder for folder in ALL if folder != DRA or version >= DRA_SINCE]
    different = {json.dumps(each): each for folder in (*folders, *LOADERS) for each in render(folder)}
    for each in different.values():
        if each["kind"] in CUSTOM:
            with pytest.raises(SchemaNotFoundError):
                kubernetes_validate.validate(each, version, strict=True)
        else:
            kubernetes_validate.validate(each, version, strict=True)


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


@pytest.mark.parametrize(("folder", "filled"), [("loader", "base"), ("overlays/existing/loader", "overlays/existing")])
def test_the_loader(folder: str, filled: str) -> None:
    """The pod that fills the volumes meets the standard, names volumes that are there, and is an image of Guard."""
    pod_, claims = resource(folder, "Pod"), resources(filled, "PersistentVolumeClaim")
    assert {each["metadata"]["namespace"] for each in claims} == {pod_["metadata"]["namespace"]}
    loader = pod_["spec"]
    assert {each["persistentVolumeClaim"]["claimName"] for each in loader["volumes"]} == {
        each["metadata"]["name"] for each in claims
    }
    (only,) = loader["containers"]
    assert {each["name"] for each in only["volumeMounts"]} == {each["name"] for each in loader["volumes"]}
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
    """Triton listens on loopback, with the secret for each of its protocols."""
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
    assert upstream["address"] == "127.0.0.1:9001"
    assert "--grpc-port=9001 " in script
    assert upstream["metrics_address"] == "127.0.0.1:8002"
    assert upstream["restricted_protocol"] == {"key": "guard", "value_file": f"/run/{LINK}/secret"}


@pytest.mark.parametrize("folder", ALL)
def test_services_lead_to_guard(folder: str) -> None:
    """Services stay as they were without Guard, which has the ports that were Triton's, by number and by name."""
    listen = {key: int(policy(folder)["listen"][key].rpartition(":")[2]) for key in ("address", "http_address")}
    assert listen == {"address": 8001, "http_address": 8000}
    assert {port["containerPort"] for port in container(folder, "guard")["ports"]} == {*listen.values(), 9011}
    named = {port["name"]: port["containerPort"] for each in containers(folder) for port in each.get("ports", [])}
    found = []
    for service in resources(folder, "Service"):
        ports = service["spec"]["ports"]
        assert all("name" in port for port in ports) or len(ports) == 1, "the API wants names where there are several"
        targets = [port.get("targetPort", port["port"]) for port in ports]
        found += [(port["port"], named.get(at, at)) for port, at in zip(ports, targets, strict=True)]
    theirs = [(80, 8000), (8001, 8001), (8001, 8001)]
    assert sorted(found) == (theirs if folder == "overlays/existing" else [(8000, 8000), (8001, 8001)])


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
    """Guard drains, Triton waits for it, and the grace period, which is the pod's own, has room for both in turn."""
    guard, triton = container(folder, "guard"), container(folder, "triton")
    assert guard["lifecycle"]["preStop"]["exec"]["command"] == ["sh", "-c", "kill -USR1 1"]
    assert triton["lifecycle"]["preStop"]["httpGet"] == {"path": "/wait-for-drain", "port": 9011}
    listen = policy(folder)["listen"]
    models_s = [int(arg.partition("=")[2]) for arg in triton["args"] if arg.startswith("--exit-timeout-secs=")]
    needed_s = listen["drain_delay_s"] + listen["drain_grace_s"] + (models_s or [30])[0] + 5
    given_s = pod(folder)["terminationGracePeriodSeconds"]
    assert given_s == (300 if folder == "overlays/existing" else 75)
    assert given_s >= needed_s


def test_a_port_that_speaks_tls_is_not_h2c() -> None:
    """Clients and gateways may speak cleartext HTTP/2 to the Service's port, but where Guard has a certificate."""
    port, secure = (resource(folder, "Service")["spec"]["ports"][0] for folder in ("base", "overlays/mtls"))
    assert (port["port"], port["appProtocol"]) == (8001, "kubernetes.io/h2c")
    assert secure == {"name": "grpc", "port": 8001, "targetPort": 8001}
    assert policy("overlays/mtls")["listen"]["tls"]


def test_components_combine(tmp_path: Path) -> None:
    """Who takes all that an overlay can have besides a GPU has each one's volumes, and ways out of the pod."""
    names = ["audit", "mtls", "redis", "tracing"]
    up = Path(os.path.relpath(KUBERNETES, tmp_path))
    chosen = {"resources": [str(up / "base")], "components": [str(up / "components" / name) for name in names]}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(chosen))
    folder = str(tmp_path)
    assert [each["name"] for each in containers(folder)] == GUARDED
    volumes = {each["name"] for each in pod(folder)["volumes"]}
    assert {"guard-audit", "guard-audit-keys", "guard-tls", "guard-query-store"} <= volumes
    mounted = {each["name"] for each in container(folder, "guard")["volumeMounts"]}
    assert mounted == {name for name in volumes if name.startswith("guard-")}
    rules = resource(folder, "NetworkPolicy")["spec"]["egress"]
    assert {port["port"] for rule in rules for port in rule["ports"]} == {4317, 6379, 53}


@pytest.mark.parametrize("folder", ALL)
def test_resources(folder: str) -> None:
    """Every container of ours says what it needs and how much memory it may take."""
    names = GUARDED if folder != "overlays/existing" else [LINK, "guard"]
    for name in names:
        wants = container(folder, name)["resources"]
        assert wants["requests"]["memory"]
        assert wants["limits"]["memory"]


def test_a_laptop_has_room() -> None:
    """To try it one pod is enough, which asks for less than a processor and makes room for the one after it."""
    deployment = resource("overlays/local", "Deployment")["spec"]
    assert (deployment["replicas"], deployment["strategy"]) == (1, {"type": "Recreate"})
    asked = [each["resources"]["requests"]["cpu"] for each in containers("overlays/local")]
    assert sum(int(cpu.removesuffix("m")) for cpu in asked) < 1000


@pytest.mark.parametrize("folder", ALL)
def test_others_select_the_pods(folder: str) -> None:
    """Whatever selects pods by label selects these; the network policy lets in what listens, and nothing else."""
    labels = resource(folder, "Deployment")["spec"]["template"]["metadata"]["labels"].items()
    network, budget = resource(folder, "NetworkPolicy")["spec"], resource(folder, "PodDisruptionBudget")["spec"]
    for selector in (network["podSelector"], budget["selector"], *(s["spec"] for s in resources(folder, "Service"))):
        assert selector.get("matchLabels", selector.get("selector")).items() <= labels
    assert network["policyTypes"] == ["Ingress", "Egress"]
    assert {port["port"] for rule in network["ingress"] for port in rule["ports"]} == {8000, 8001, 9011}
    ports = {port["port"] for rule in network["egress"] for port in rule["ports"]}
    assert ports == {"overlays/redis": {6379, 53}, "overlays/evidence": {4317, 53}}.get(folder, set())
