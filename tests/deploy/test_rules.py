"""The rules for Prometheus: each alert fires when it should and is silent when it should, and reads what there is."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.alert_apart import APART
from tests.deploy.alert_case import Case, as_promtool
from tests.deploy.alert_cases import CASES as TOGETHER
from tests.deploy.alert_rollouts import ROLLOUTS
from tests.deploy.mutants import Mutant, Rule, mutants, needed
from tests.deploy.rules import ROOT, RULES, groups, needs_promtool, rules, without_annotations

CASES = [*TOGETHER, *APART, *ROLLOUTS]
CATALOGUES = ("technique", "atlas", "owasp_ml", "nist_aml")
# ATLAS 5.6, OWASP Machine Learning Security Top 10 (2023) and NIST AI 100-2 E2025, as they were looked up: the latter
# two have nothing for somebody who goes round a guard to the model's own interface.
KNOWN = {
    ("Craft Adversarial Data", "AML.T0043,AML.T0015", "ML01:2023", "NISTAML.022"),
    ("Black-Box Optimization", "AML.T0043.001,AML.T0042", "ML01:2023", "NISTAML.025"),
    ("AI Model Inference API Access", "AML.T0040", None, None),
}
LONG_MIN = 60
"""From here on rules are evaluated every five minutes, to save time."""
NAMED = {
    "GuardAttackSuspected", "GuardAttackSustained", "GuardClientConcentration", "GuardQueryAttack", "GuardScoreDrift",
    "GuardUnscreenedTraffic", "GuardBypassSuspected", "GuardNotEnforcing", "GuardSelfTestFailing",
    "GuardErrorBudgetBurn", "GuardOverheadHigh", "GuardDown", "GuardAuditLoss", "GuardBypassUnwatched",
    "GuardReloadRefused", "GuardCertificateEnding", "GuardQueryStoreDown",
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
@pytest.mark.parametrize("alert", sorted(NAMED))
def test_an_alert_fires_and_stays_silent(alert: str, tmp_path: Path) -> None:
    """Each row of `alert_cases` turns out as it says; and for each mistake in the alert's rules one does not."""
    every = [rule for group in without_annotations()["groups"] for rule in group["rules"]]
    mistaken = mutants(alert, every)
    wrong = outcome(
        alert, [*needed(alert, every), *(rule for each in mistaken for rule in each.rules)], mistaken, tmp_path
    )
    assert alert not in wrong, wrong[alert]
    assert len(mistaken) > 1
    assert [each.what for each in mistaken if each.alert not in wrong] == [], "no row would show these mistakes"


def outcome(alert: str, rules: list[Rule], mistaken: list[Mutant], folder: Path) -> dict[str, str]:
    """Which of an alert and its mutants fire otherwise than the rows say, and what promtool says to that."""
    own = next(rule["labels"] for rule in reversed(rules) if rule.get("alert") == alert)
    names = [alert, *(each.alert for each in mistaken)]
    (folder / "rules.json").write_text(json.dumps({"groups": [{"name": "all", "rules": rules}]}))
    files = []
    for interval, long in (("1m", False), ("5m", True)):
        rows = [case for case in CASES if case.alert == alert and (case.at_min >= LONG_MIN) == long]
        tests = [as_promtool(case, own, names) for case in rows]
        files.append(folder / f"{interval}.json")
        content = {"rule_files": ["rules.json"], "evaluation_interval": interval, "tests": tests}
        files[-1].write_text(json.dumps(content))
    result = promtool("test", "rules", *files)
    said = result.stdout + result.stderr
    assert "err:" not in said, said
    found = re.split(r"alertname: ?(?=\S+, time)", said)[1:]
    return {each.partition(",")[0]: each for each in found}


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
    """Its severity, a summary, and a runbook that is there."""
    assert rule["labels"]["severity"] in {"warning", "critical"}
    assert len(rule["annotations"]["summary"]) > 20
    assert rule["annotations"]["runbook_url"] == f"docs/runbooks/{rule['alert']}.md"
    page = (ROOT / rule["annotations"]["runbook_url"]).read_text()
    assert re.findall(r"^#+ (.*)$", page, flags=re.MULTILINE) == [
        rule["alert"], "What it means", "What to look at", "What to do"
    ]  # fmt: skip


@needs_promtool
def test_how_a_certificate_ends(tmp_path: Path) -> None:
    """It ends in some time, or has ended; none ends in less than no time."""
    ends = "guard_tls_cert_expiry_timestamp_seconds{file='%s'}"
    row = {
        "interval": "1m",
        "input_series": [
            {"series": ends % "soon.crt", "values": "216000x1500"},
            {"series": ends % "old.crt", "values": "3600x1500"},
        ],
        "alert_rule_test": [{"eval_time": "1450m", "alertname": "GuardCertificateEnding", "exp_alerts": []}],
    }
    content = {"rule_files": [str(RULES)], "evaluation_interval": "5m", "tests": [row]}
    (tmp_path / "row.json").write_text(json.dumps(content))
    result = promtool("test", "rules", tmp_path / "row.json")
    said = re.findall(r'summary="([^"]*)"', result.stdout + result.stderr)
    assert sorted(said) == [
        "The certificate in old.crt of  has ended, and nobody replaced it",
        "The certificate in soon.crt of  ends in 1d 11h 50m 0s, and nobody replaced it",
    ]


@pytest.mark.parametrize("group", groups(), ids=lambda group: str(group["name"]))
def test_which_attack_an_alert_says(group: dict[str, Any]) -> None:
    """The alerts of the group `guard-attacks` have their place in the catalogues that know such a thing, no others."""
    alerts = [rule["labels"] for rule in group["rules"] if "alert" in rule]
    said = {tuple(labels.get(catalogue) for catalogue in CATALOGUES) for labels in alerts}
    assert said == (KNOWN if group["name"] == "guard-attacks" else {(None,) * 4} if alerts else set())
