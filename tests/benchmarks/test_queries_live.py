"""Query attacks on a running sidecar, in small."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from benchmarks.detection.subjects import Split
from benchmarks.queries import live, live_table
from benchmarks.queries.attacks import Budget
from guard.profile import store
from tests.support import digits
from tests.support.profiles import plain_profile

_IMAGES, _QUERIES = 2, 12
_QUICK = tuple(each for each in live.CONDITIONS if each.name in {"plain", "rotated"} and each.defence != "detectors")


def test_attacks_through_a_sidecar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Square asks over real connections: nothing rejects it without Guard; with a memory it is, from any address."""
    monkeypatch.setattr(live, "CONDITIONS", _QUICK)
    monkeypatch.setattr(live, "ATTACKS", ("Square",))
    store.save(plain_profile(), tmp_path / "profile")
    shutil.copy(digits.onnx_file(), tmp_path / "model.onnx")
    size = live.Size(Budget(0.02, 1.0, _QUERIES, 8), seed=0, rate=0.01)  # too near to succeed before it is noticed
    rows = list(live.measure(tmp_path, Split(*digits.load_data().test), _IMAGES, size))
    open_, watched, rotated = rows
    assert [row["runs"] for row in rows] == [_IMAGES] * 3
    assert (open_["runs_rejected"], open_["rejected"]) == (0, 0)
    assert watched["runs_rejected"] == rotated["runs_rejected"] == _IMAGES
    assert np.all([row["queries"] <= _IMAGES * _QUERIES for row in rows])
    about = {"subject": "digits", "faster": 1, "smaller": 1, "seed": 0, "rate": 0.01, "about": {}}
    live_table.write(
        {**about, "budget": {"linf": 0.02, "l2": 1.0, "queries": _QUERIES}, "rows": rows}, tmp_path / "live"
    )
    assert json.loads((tmp_path / "live.json").read_text())["rows"] == rows
    table = (tmp_path / "live.md").read_text()
    assert f"| Square | detectors and memory | rotated | {rotated['successes']} of {_IMAGES} (" in table
