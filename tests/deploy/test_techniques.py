"""Rules and dashboards name the techniques of attacks as the audit log does."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from guard.audit.techniques import attacks_of
from guard.values import Action, Decision, Evidence, ItemDecision, Mode, Probing, Verdict
from tests.deploy.rules import ROOT, needs_promtool, rules, without_annotations

CATALOGUES = ("technique", "atlas", "owasp_ml", "nist_aml")
ROUND_GUARD = "AI Model Inference API Access"
"""The technique that no input shows, for Guard sees none."""

BOARD = ROOT / "deploy" / "grafana" / "guard-attacks.json"


def recorded() -> dict[str, dict[str, str]]:
    """The labels of each technique that is recorded, by its name."""
    found = [rule["labels"] for rule in rules("record") if rule["record"] == "guard:techniques:increase5m"]
    return {labels["technique"]: labels for labels in found}


def audited(*findings: Any) -> list[tuple[str, str]]:
    """(name, id) of what the audit log says of an adversarial input with these findings."""
    item = ItemDecision(Verdict.ADVERSARIAL, 0.001, findings)
    decision = Decision(
        id="d",
        model="digits",
        mode=Mode.FLAG,
        verdict=Verdict.ADVERSARIAL,
        p_value=0.001,
        intended=Action.FLAG,
        action=Action.FLAG,
        items=(item,),
        spent={},
    )
    narrowest = [attack.get("sub_technique", attack["technique"]) for attack in attacks_of(decision)]
    return [(each["name"], each["uid"]) for each in narrowest]


@needs_promtool
@pytest.mark.parametrize(
    ("findings", "series"),
    [
        ((Evidence("network", 9.0, 0, p_value=0.001),), "guard_verdicts_total{detector='network'"),
        ((Evidence("occlusion", 9.0, 0, p_value=0.001),), "guard_verdicts_total{detector='occlusion'"),
        (
            (Probing("queries", of_client=9, of_everyone=9, suspicious=True, condemns=True),),
            "guard_suspicious_queries_total{",
        ),
    ],
    ids=["perturbed", "patch", "queries"],
)
def test_what_an_input_counts_for(findings: tuple[Any, ...], series: str, tmp_path: Path) -> None:
    """An input counts for the technique that its record in the audit log has, by name and ATLAS id."""
    name, uid = audited(*findings)[0]
    labels = recorded()[name]
    assert labels["atlas"].split(",")[0] == uid
    given = series.rstrip("{") + ("," if series[-1] != "{" else "{") + "job='guard',model='digits'}"
    said = ",".join(f"{key}='{value}'" for key, value in labels.items())
    sample = {"labels": f"guard:techniques:increase5m{{job='guard',model='digits',{said}}}", "value": 10}
    tests = {
        "rule_files": ["rules.yml"],
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": given, "values": "0+2x20"}],
                "promql_expr_test": [
                    {"expr": "guard:techniques:increase5m", "eval_time": "15m", "exp_samples": [sample]},
                ],
            }
        ],
    }
    (tmp_path / "rules.yml").write_text(yaml.safe_dump(without_annotations()))
    (tmp_path / "tests.yml").write_text(yaml.safe_dump(tests))
    words = ["promtool", "test", "rules", str(tmp_path / "tests.yml")]
    result = subprocess.run(words, check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    "rule",
    [rule for rule in rules("alert") if rule["labels"].get("technique") not in {None, ROUND_GUARD}],
    ids=lambda rule: str(rule["alert"]),
)
def test_alerts_name_a_technique_that_is_recorded(rule: dict[str, Any]) -> None:
    """An alert of an attack has a technique's labels as they are recorded, all of them."""
    mine = {label: rule["labels"][label] for label in CATALOGUES}
    assert mine == recorded()[mine["technique"]]


def test_the_dashboard_says_which() -> None:
    """One panel names the technique of each alert that fires, one shows techniques over time; labels are there."""
    queries = [target for panel in json.loads(BOARD.read_text())["panels"] for target in panel.get("targets", [])]
    mine = {each["expr"]: each["legendFormat"] for each in queries if "technique" in each["expr"]}
    assert sum("ALERTS{" in expression for expression in mine) == 1
    assert sum("guard:techniques:increase5m{" in expression for expression in mine) == 1
    for expression, legend in mine.items():
        by = expression.partition("by (")[2].partition(")")[0].split(", ")
        assert set(CATALOGUES) <= set(by)
        assert set(re.findall(r"{{(\w+)}}", legend)) == set(by)
