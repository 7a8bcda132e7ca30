"""What the audit log costs, measured in short."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.audit import __main__ as command


def test_main(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Records of each size and requests to each Guard are measured, and what is printed is written."""
    for name, few in (("SIDES_PX", (8,)), ("_CALLS", 100), ("_RECORDS", 20), ("_TURNS", 3), ("_REQUESTS", 1)):
        monkeypatch.setattr(command, name, few)
    monkeypatch.setattr(command, "RESULT", tmp_path / "audit.json")
    command.main()
    found = json.loads((tmp_path / "audit.json").read_text())
    assert found["one_request_us"]["let_through"] > 0
    assert found["one_record_us"]["8x8x3"]["writer_written"] > 0
    assert set(found["running"]["median_ratio"]) == {"sampled", "all"}
