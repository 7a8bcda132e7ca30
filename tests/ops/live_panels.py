"""Each panel of each dashboard shows something in an attack: a real Prometheus evaluates what a Grafana would ask.

`make ops-test` runs it; it takes under three minutes. Time is divided by forty.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.ops.guarded import guarded
from tests.ops.panels import DASHBOARDS, Pace, draw, watch

pytestmark = pytest.mark.skipif(
    any(shutil.which(name) is None for name in ("prometheus", "prometheus-alertmanager")),
    reason="not installed (Debian packages): prometheus, prometheus-alertmanager",
)


def test_no_panel_is_empty(tmp_path: Path) -> None:
    """All of them are drawn, with lines, areas or figures in them."""
    pace = Pace(hurry=40, usual_s=110.0, benign_s=30.0, attack_s=25.0)
    with guarded(tmp_path) as (sidecar, triton), watch(sidecar, triton, tmp_path, pace) as watched:
        drawn = {path.stem: draw(json.loads(path.read_text()), watched) for path in DASHBOARDS}
    assert {name: empty for name, (_, empty) in drawn.items()} == {"guard-attacks": [], "guard-service": []}
    for name, (figure, _) in drawn.items():
        figure.savefig(tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").stat().st_size > 50_000
