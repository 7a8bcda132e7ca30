"""docs/runbooks/index.md: by what it says, alerts link to an address of the operator's."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

from tests.deploy.rendered import KUBERNETES, needs_kubectl
from tests.deploy.rules import ROOT, RULES

TEXT = (ROOT / "docs" / "runbooks" / "index.md").read_text()
ADDRESS = "https://git.example/guard/blob/main/docs"


def links(groups: list[dict[str, Any]]) -> dict[str, str]:
    """Where each alert links to; every alert links somewhere, and no recording rule does."""
    found = [rule for group in groups for rule in group["rules"]]
    assert all(("alert" in rule) == ("runbook_url" in rule.get("annotations", {})) for rule in found)
    return {rule["alert"]: rule["annotations"]["runbook_url"] for rule in found if "alert" in rule}


def wanted() -> dict[str, str]:
    """The page of each alert at the address."""
    ours = links(yaml.safe_load(RULES.read_text())["groups"])
    assert len(ours) > 10
    return {alert: f"{ADDRESS}/runbooks/{alert}.md" for alert in ours}


def test_the_rules_of_a_prometheus(tmp_path: Path) -> None:
    """The command puts the address before every link, and changes nothing else."""
    file = tmp_path / RULES.relative_to(ROOT)
    file.parent.mkdir(parents=True)
    shutil.copy(RULES, file)
    (command,) = re.findall(r"^ {4}(sed .*)$", TEXT, re.MULTILINE)
    subprocess.run(shlex.split(command), cwd=tmp_path, check=True)
    assert links(yaml.safe_load(file.read_text())["groups"]) == wanted()
    assert file.read_text().replace(ADDRESS, "docs") == RULES.read_text()


@needs_kubectl
def test_the_rules_of_the_operator(tmp_path: Path) -> None:
    """The lines for a kustomization do so in what is rendered, and leave nothing of their own there."""
    (lines,) = re.findall(r"^```\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    overlay = os.path.relpath(KUBERNETES / "overlays" / "monitored", tmp_path)
    (tmp_path / "kustomization.yaml").write_text(f"resources: [{overlay}]\n{lines}")
    made = subprocess.run(["kubectl", "kustomize", tmp_path], check=True, capture_output=True, text=True)
    resources = list(yaml.safe_load_all(made.stdout))
    (rules,) = (each for each in resources if each["kind"] == "PrometheusRule")
    assert links(rules["spec"]["groups"]) == wanted()
    assert not [each for each in resources if each["metadata"]["name"].startswith("guard-documents")]
