"""The rules that Guard ships, as data."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "prometheus" / "guard.rules.yml"

MONITORED = ROOT / "deploy" / "kubernetes" / "overlays" / "monitored" / "kustomization.yaml"
OVERHEAD_LIMIT = "guard:overhead_seconds:limit"

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed (Debian package: prometheus)"
)


def groups() -> list[dict[str, Any]]:
    """The groups of rules."""
    found: list[dict[str, Any]] = yaml.safe_load(RULES.read_text())["groups"]
    return found


def rules(kind: str) -> list[dict[str, Any]]:
    """The rules of a kind: `record` or `alert`."""
    return [rule for group in groups() for rule in group["rules"] if kind in rule]


def cpu_limit_s() -> float:
    """What a request may spend in Guard where that runs on CPUs: the limit of the overlay that is monitored."""
    (generator,) = yaml.safe_load(MONITORED.read_text())["configMapGenerator"]
    (found,) = re.fullmatch(r"overhead=vector\((.*)\)", *generator["literals"]).groups()
    return float(found)


def without_annotations() -> dict[str, Any]:
    """The rules without what only people read, which promtool would compare to the last digit."""
    bare = [
        {**group, "rules": [{k: v for k, v in rule.items() if k != "annotations"} for rule in group["rules"]]}
        for group in groups()
    ]
    return {"groups": bare}
