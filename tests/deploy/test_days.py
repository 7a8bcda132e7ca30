"""Whole days of the alerts together: who is told what, how soon, and that nothing else is."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.deploy.day import MINUTES
from tests.deploy.days import DAYS, PAGE, Told, page
from tests.deploy.rules import needs_promtool, without_annotations
from tests.deploy.test_rules import promtool

_FIRING = 'ALERTS{alertstate="firing"}'
ASKED = f"min by (alertname) (min_over_time(timestamp({_FIRING})[1d:2m]))"


@needs_promtool
@pytest.mark.parametrize("day", DAYS, ids=lambda day: str(day.what))
def test_a_day(day: Told, tmp_path: Path) -> None:
    """Each alert that the day should bring fires in time, and no other fires."""
    fired = first_minutes(day, tmp_path)
    assert fired.keys() == day.tells.keys()
    late = {alert: fired[alert] - day.since for alert in fired}
    assert {alert: after for alert, after in late.items() if not 0 <= after <= day.tells[alert]} == {}


def test_the_table() -> None:
    """The runbooks' first page says which day tells what."""
    assert page(PAGE.read_text()) == PAGE.read_text()


def first_minutes(day: Told, folder: Path) -> dict[str, int]:
    """In which minute each alert fired first."""
    (folder / "rules.json").write_text(json.dumps(without_annotations()))
    test = {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in day.series.items()],
        "promql_expr_test": [
            {"expr": ASKED, "eval_time": f"{MINUTES - 1}m", "exp_samples": [{"labels": "none", "value": 0}]}
        ],
    }
    content = {"rule_files": ["rules.json"], "evaluation_interval": "2m", "tests": [test]}
    (folder / "day.json").write_text(json.dumps(content))
    result = promtool("test", "rules", folder / "day.json")
    said = result.stdout + result.stderr
    assert "err:" not in said, said
    _, asked, got = said.partition("got:")
    assert asked, said
    return {alert: round(float(at)) // 60 for alert, at in re.findall(r'alertname="(\w+)"} ([\d.E+]+)', got)}
