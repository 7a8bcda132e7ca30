"""Writes rules and dashboards as Kubernetes resources: kustomize takes them as such, and from its own folder only."""

# ruff: noqa: INP001 - a script beside manifests, no part of a package

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import yaml

DEPLOY = Path(__file__).parents[1]
INTO = DEPLOY / "kubernetes" / "components" / "monitoring"


def rules(folder: Path) -> str:
    """A PrometheusRule with all groups of the rule files in a folder."""
    documents = [yaml.safe_load(path.read_text()) for path in sorted(folder.glob("*.y*ml"))]
    groups = [group for each in documents if isinstance(each, dict) for group in each.get("groups", [])]
    return _text(
        {
            "apiVersion": "monitoring.coreos.com/v1",
            "kind": "PrometheusRule",
            "metadata": {"name": "guard"},
            "spec": {"groups": groups},
        }
    )


def dashboards(folder: Path) -> str:
    """A ConfigMap for each dashboard in a folder, with the label that Grafana's sidecar looks for."""
    items = [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": f"guard-dashboard-{path.stem}", "labels": {"grafana_dashboard": "1"}},
            "data": {path.name: json.dumps(json.loads(path.read_text()), indent=1) + "\n"},
        }
        for path in sorted(folder.glob("*.json"))
    ]
    return _text({"apiVersion": "v1", "kind": "List", "items": items})


def collect() -> dict[Path, str]:
    """What belongs into which file."""
    return {
        INTO / "rules.yaml": rules(DEPLOY / "prometheus"),
        INTO / "dashboards.yaml": dashboards(DEPLOY / "grafana"),
    }


def _text(document: dict[str, Any]) -> str:
    return "# Made by `make kubernetes`.\n" + yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=120)


if __name__ == "__main__":
    for file, content in collect().items():
        file.write_text(content)
        sys.stdout.write(f"{file.relative_to(DEPLOY)}\n")
