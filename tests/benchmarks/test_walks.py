"""The measurement behind trials as objects: both ways to walk agree, and what batches hold is counted in an engine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.engine import walks
from benchmarks.engine.subject import Subject


@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("trials", [2, 7, 64])
def test_both_ways_agree(trials: int, rate: float) -> None:
    """A measurement compares the steps of both, and fails where they differ; it gives the time of each."""
    found = walks._measure(trials, rate, seed=trials)
    assert found["each_us"] > 0 < found["together_us"]


def test_a_difference_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables that say something else are noticed."""
    right = walks.tables
    monkeypatch.setattr(walks, "tables", lambda kinds: right(kinds)._replace(stable_from=right(kinds).stable_from - 3))
    with pytest.raises(AssertionError, match="differ"):
        walks._measure(8, 0.0, seed=0)


def test_trials_are_counted_in_an_engine(lenet: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each batch of a busy engine moves some trials, two an item at most, and no more items than it has rows."""
    monkeypatch.setitem(walks._REQUESTS, "LeNet-5", 60)
    counted = walks.trials_in_batches(lenet)
    assert sum(counted) >= 2 * 60  # two trials a request, each moved at least once
    assert max(counted) <= 2 * lenet.batch


def test_main(lenet: Subject, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The command measures every row and every model, and writes them as a table and as JSON."""
    monkeypatch.setattr(walks, "load", lambda *_, **__: [lenet])
    monkeypatch.setattr(walks, "_TRIALS", (4, 8))
    monkeypatch.setitem(walks._REQUESTS, "LeNet-5", 30)
    walks.main(tmp_path, tmp_path)
    found = json.loads((tmp_path / "walks.json").read_text())
    assert len(found["rows"]) == 2 * len(walks._RATES)
    assert found["trials"]["LeNet-5"]["median"] >= 1
    assert "| LeNet-5 |" in (tmp_path / "walks.md").read_text()
