"""The rules for Prometheus: each alert fires when it should and is silent when it should, and reads what there is."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.alert_cases import CASES, Case, as_promtool
from tests.deploy.rules import ROOT, RULES, groups, needs_promtool, rules, without_annotations

# ATLAS 5.6, OWASP Machine Learning Security Top 10 (2023) and NIST AI 100-2 E2025, as they were looked up.
KNOWN = {
    "atlas": {"AML.T0043", "AML.T0015", "AML.T0043.001", "AML.T0042"},
    "owasp_ml": {"ML01:2023"},
    "nist_aml": {"NISTAML.022", "NISTAML.025"},
}
LONG_MIN = 150
"""From here on rules are evaluated every five minutes, to save time."""
NAMED = {
    "GuardAttackSuspected", "GuardAttackSustained", "GuardClientConcentration", "GuardQueryAttack", "GuardScoreDrift",
    "GuardUnscreenedTraffic", "GuardBypassSuspected", "GuardNotEnforcing", "GuardSelfTestFailing",
    "GuardErrorBudgetBurn", "GuardOverheadHigh", "GuardDown", "GuardAuditLoss",
}  # fmt: skip


def promtool(*words: object) -> subprocess.CompletedProcess[str]:
    """Run promtool."""
    return subprocess.run(["promtool", *map(str, words)], check=False, capture_output=True, text=True)


@needs_promtool
def test_promtool_accepts_the_rules() -> None:
    """Expressions and templates parse, and nothing is defined twice."""
    result = promtool("check", "rules", "--lint=all", "--lint-fatal", RULES)
    assert result.returncode == 0, result.stdout + result.stderr


@needs_promtool
@pytest.mark.parametrize("long", [False, True], ids=["in minutes", "in hours"])
def test_alerts_fire_and_stay_silent(tmp_path: Path, *, long: bool) -> None:
    """Each row of `alert_cases` turns out as it says."""
    own = {rule["alert"]: rule["labels"] for rule in rules("alert")}
    (tmp_path / "rules.yml").write_text(yaml.safe_dump(without_annotations()))
    cases = [as_promtool(case, own[case.alert]) for case in CASES if (case.at_min >= LONG_MIN) == long]
    tests = {
        "rule_files": ["rules.yml"],
        "evaluation_interval": "5m" if long else "1m",
        "group_eval_order": [group["name"] for group in groups()],
        "tests": cases,
    }
    (tmp_path / "tests.yml").write_text(yaml.safe_dump(tests))
    result = promtool("test", "rules", tmp_path / "tests.yml")
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("alert", sorted(NAMED))
def test_each_alert_is_tested_both_ways(alert: str) -> None:
    """It has a row in which it fires and one in which it is silent."""
    mine: list[Case] = [case for case in CASES if case.alert == alert]
    assert {bool(case.fires) for case in mine} == {True, False}


def test_the_alerts_are_those_that_are_named() -> None:
    """No alert is forgotten here."""
    assert {rule["alert"] for rule in rules("alert")} == NAMED


@pytest.mark.parametrize("rule", rules("alert"), ids=lambda rule: f"{rule['alert']}-{rule['labels']['severity']}")
def test_what_an_alert_says(rule: dict[str, Any]) -> None:
    """Its severity, a summary, a runbook that is there, and, for an attack, its place in three catalogues."""
    assert rule["labels"]["severity"] in {"warning", "critical"}
    assert len(rule["annotations"]["summary"]) > 20
    assert rule["annotations"]["runbook_url"] == f"docs/runbooks/{rule['alert']}.md"
    page = (ROOT / rule["annotations"]["runbook_url"]).read_text()
    assert re.findall(r"^#+ (.*)$", page, flags=re.MULTILINE) == [
        rule["alert"], "What it means", "What to look at", "What to do"
    ]  # fmt: skip
    attack = "Attack" in rule["alert"] or rule["alert"] == "GuardClientConcentration"
    for catalogue, ids in KNOWN.items():
        assert (catalogue in rule["labels"]) == attack
        assert set(rule["labels"].get(catalogue, "").split(",")) <= ids | {""}
