"""The dashboards for Grafana: what is committed is what the code makes, and every expression parses.

There is no Grafana here to show them in.
"""

from __future__ import annotations

import json
import re
import subprocess
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.grafana import dashboards
from tests.deploy.rules import needs_promtool
from tests.deploy.test_names import queries

FILES = dashboards.files()


@pytest.mark.parametrize("name", sorted(FILES))
def test_committed_as_made(name: str) -> None:
    """`make dashboards` would change nothing."""
    assert (dashboards.FOLDER / name).read_text() == FILES[name]
    assert sorted(path.name for path in dashboards.FOLDER.glob("*.json")) == sorted(FILES)


@needs_promtool
@pytest.mark.parametrize("name", sorted(FILES))
def test_every_expression_parses(name: str, tmp_path: Path) -> None:
    """Prometheus takes each of them, with Grafana's variables filled in."""
    found = [
        query.replace("$__rate_interval", "1m").replace("$model", ".+") for query in queries(json.loads(FILES[name]))
    ]
    assert len(found) > 10
    rules = [{"record": f"panel:{number}", "expr": query} for number, query in enumerate(found)]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    words = ["promtool", "check", "rules", "--lint=none", str(tmp_path / "rules.yml")]
    result = subprocess.run(words, check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("name", sorted(FILES))
def test_what_a_person_needs(name: str) -> None:
    """Each panel has a title, a line on what it shows, a query, a place of its own, and the chosen data source."""
    board: dict[str, Any] = json.loads(FILES[name])
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    assert len({panel["title"] for panel in panels}) == len(panels) > 8
    for panel in panels:
        assert panel["description"]
        assert panel["targets"]
        assert panel["datasource"]["uid"] == "${datasource}"
    places = [(p["gridPos"]["y"], p["gridPos"]["x"], p["gridPos"]["w"]) for p in panels]
    assert all(a[0] != b[0] or a[1] + a[2] <= b[1] for a, b in pairwise(sorted(places)))
    assert [variable["name"] for variable in board["templating"]["list"]] == ["datasource", "model"]
    assert re.fullmatch(r"guard-[a-z]+", board["uid"])
