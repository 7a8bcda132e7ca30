"""Query attacks on a running sidecar, in small."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from benchmarks.detection.subjects import Name
from benchmarks.queries import live
from guard.profile import store
from tests.support import digits
from tests.support.profiles import plain_profile

_IMAGES, _QUERIES = 2, 12
_QUICK = tuple(each for each in live.CONDITIONS if each.name in {"plain", "rotated"} and each.defence != "detectors")


def test_attacks_through_a_sidecar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Square asks over real connections: nothing rejects it without Guard; with a memory it is, from any address."""
    monkeypatch.setattr(live, "CONDITIONS", _QUICK)
    monkeypatch.setattr(live, "ATTACKS", ("Square",))
    monkeypatch.setitem(live._BUDGETS, Name.DIGITS, (0.02, 1.0))  # too near to succeed before it is noticed
    made = tmp_path / Name.DIGITS
    made.mkdir()
    store.save(plain_profile(), made / "profile")
    shutil.copy(digits.onnx_file(), made / "model.onnx")
    live.main(out=tmp_path, work=tmp_path, images=_IMAGES, queries=_QUERIES)
    rows = json.loads((tmp_path / "queries-live-digits.json").read_text())["rows"]
    open_, watched, rotated = rows
    assert [row["runs"] for row in rows] == [_IMAGES] * 3
    assert (open_["runs_rejected"], open_["rejected"]) == (0, 0)
    assert watched["runs_rejected"] == rotated["runs_rejected"] == _IMAGES
    assert np.all([row["queries"] <= _IMAGES * _QUERIES for row in rows])
    table = (tmp_path / "queries-live-digits.md").read_text()
    assert f"| Square | detectors and memory | rotated | {rotated['successes']} of {_IMAGES} (" in table
