"""What kustomize makes of deploy/kubernetes, by kubectl, as an operator would."""

from __future__ import annotations

import functools
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

KUBERNETES = Path(__file__).parents[2] / "deploy" / "kubernetes"
OVERLAYS = sorted(path.name for path in (KUBERNETES / "overlays").iterdir())
ALL = ["base", *(f"overlays/{name}" for name in OVERLAYS)]
LINK = "guard-link"
CUSTOM = {"PodMonitor", "PrometheusRule"}

needs_kubectl = pytest.mark.skipif(
    shutil.which("kubectl") is None, reason="no kubectl is installed, which renders them"
)


@functools.cache
def render(folder: str) -> tuple[dict[str, Any], ...]:
    """The resources of a folder of deploy/kubernetes."""
    made = subprocess.run(
        ["kubectl", "kustomize", KUBERNETES / folder], capture_output=True, text=True, check=False, timeout=60
    )
    assert made.returncode == 0, made.stderr
    assert "Warning" not in made.stderr, made.stderr
    return tuple(each for each in yaml.safe_load_all(made.stdout) if each is not None)


def resources(folder: str, kind: str) -> list[dict[str, Any]]:
    """Those of a kind."""
    return [each for each in render(folder) if each["kind"] == kind]


def resource(folder: str, kind: str) -> dict[str, Any]:
    """The only one of a kind."""
    (found,) = resources(folder, kind)
    return found


def pod(folder: str) -> dict[str, Any]:
    """What the pods are made of."""
    spec: dict[str, Any] = resource(folder, "Deployment")["spec"]["template"]["spec"]
    return spec


def containers(folder: str) -> list[dict[str, Any]]:
    """Those of a pod, in the order in which they start."""
    spec = pod(folder)
    return [*spec["initContainers"], *spec["containers"]]


def container(folder: str, name: str) -> dict[str, Any]:
    """One of them."""
    (found,) = (each for each in containers(folder) if each["name"] == name)
    return found


def policy_text(folder: str) -> str:
    """Guard's policy file."""
    maps = [each for each in resources(folder, "ConfigMap") if each["metadata"]["name"] == "guard-policy"]
    (found,) = maps
    text: str = found["data"]["policy.yaml"]
    return text


def policy(folder: str) -> dict[str, Any]:
    """What it says."""
    data: dict[str, Any] = yaml.safe_load(policy_text(folder))
    return data
