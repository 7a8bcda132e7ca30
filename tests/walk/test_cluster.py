"""Lines for a cluster, of which there is none here: what they name is what is rendered to be applied before them."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.rendered import needs_kubectl, render
from tests.walk.documents import ROOT
from tests.walk.route import ON_A_CLUSTER

pytestmark = needs_kubectl

APPLIED = ("overlays/local", "loader")
"""What `kubectl apply -k my-guard` and the loader's own line apply: the walk renders my-guard itself."""

EVIDENCE = ("overlays/evidence",)
"""What is applied where lines speak of the audit log."""


def found(kind: str, name: str, applied: Sequence[str] = APPLIED) -> dict[str, Any]:
    """The one resource of that kind and name."""
    all_of_them = (each for folder in applied for each in render(folder))
    (one,) = (each for each in all_of_them if (each["kind"].lower(), each["metadata"]["name"]) == (kind, name))
    return dict(one)


def pod_of(resource: dict[str, Any]) -> dict[str, Any]:
    """The specification of its pods."""
    spec = resource["spec"]
    return dict(spec["template"]["spec"] if "template" in spec else spec)


def containers(resource: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """All of them by their names."""
    pod = pod_of(resource)
    return {each["name"]: each for each in [*pod.get("initContainers", []), *pod["containers"]]}


def ports(resource: dict[str, Any]) -> set[int]:
    """Those of a service, or of a deployment's containers."""
    if resource["kind"] == "Service":
        return {each["port"] for each in resource["spec"]["ports"]}
    return {port["containerPort"] for each in containers(resource).values() for port in each.get("ports", [])}


def paths(line: str) -> Iterator[str]:
    """Where in the loader something is made or copied to."""
    yield from re.findall(r"(?:loader:|\s)(/\S+)", line)


@pytest.mark.parametrize("line", ON_A_CLUSTER)
def test_what_it_names_is_there(line: str) -> None:
    """Resources of that kind and name are in that namespace, with such containers, ports and mounted folders."""
    if named := re.search(r"\b(pod|deployment|service)[ /](\w+)", line.replace("exec loader", "pod/loader")):
        resource = found(*named.groups(), EVIDENCE if re.search("audit|/var/lib/guard", line) else APPLIED)
        assert f"-n {resource['metadata']['namespace']} " in line
        if container := re.search(r" -c (\w+)", line):
            assert container[1] in containers(resource)
        if port := re.search(r" port-forward \S+ (\d+)", line):
            assert int(port[1]) in ports(resource)
        if folder := re.search(r" -c (\w+) .*?(/(?:var|profiles)/\S+)", line):
            mounts = [each["mountPath"] for each in containers(resource)[folder[1]]["volumeMounts"]]
            assert any(f"{folder[2]}/".startswith(f"{mount}/") for mount in mounts)
    if selector := re.search(r"--selector (\S+)=(\S+)", line):
        assert found("deployment", "triton")["spec"]["template"]["metadata"]["labels"][selector[1]] == selector[2]
    if "loader" in line:
        (loader,) = containers(found("pod", "loader")).values()
        mounts = tuple(each["mountPath"] + "/" for each in loader["volumeMounts"])
        assert all(path.startswith(mounts) for path in paths(line))
    if applied := re.search(r"apply -k (deploy/\S+)", line):
        assert render(str((ROOT / applied[1]).relative_to(ROOT / "deploy" / "kubernetes")))


@pytest.mark.parametrize(
    ("name", "applied", "settings"),
    [
        ("guard-noise", APPLIED, {"secret": "noise_secret_file: {}"}),
        (
            "guard-audit",
            EVIDENCE,
            {"names.key": "pseudonym_key_file: {}", "captures.key": "captures: {{key_file: {}}}"},
        ),
        ("guard-query-store", ("overlays/redis",), {"password": "password_file: {}", "ca.crt": "ca_file: {}"}),
        (
            "guard-tls",
            ("overlays/mtls",),
            {"tls.crt": "certificate_file: {}", "tls.key": "key_file: {}", "ca.crt": "client_ca_file: {}"},
        ),
    ],
)
def test_secrets_are_those_that_pods_want(
    name: str, applied: Sequence[str], settings: dict[str, str], tmp_path: Path
) -> None:
    """The line makes, without a cluster to send it to, the Secret that Guard's pods mount, with what policies name."""
    (line,) = (each for each in ON_A_CLUSTER if f" create secret generic {name} " in each)
    for key in settings:
        (tmp_path / key).write_bytes(os.urandom(32))
    made = subprocess.run(
        ["bash", "-c", f"{line} --dry-run=client --output=json"],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    secret = json.loads(made.stdout)
    assert secret["metadata"]["name"] == name
    assert secret["data"].keys() == settings.keys()
    assert all(len(base64.b64decode(content)) >= 32 for content in secret["data"].values())
    deployment = found("deployment", "triton", applied)
    (volume,) = (each for each in pod_of(deployment)["volumes"] if each.get("secret", {}).get("secretName") == name)
    (mount,) = (e for e in containers(deployment)["guard"]["volumeMounts"] if e["name"] == volume["name"])
    policy = found("configmap", "guard-policy", applied)["data"]["policy.yaml"]
    for key, setting in settings.items():
        assert setting.format(f"{mount['mountPath']}/{key}") in policy
