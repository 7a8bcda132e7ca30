"""Records as a table."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from guard.audit.export import export
from guard.errors import EnvironmentProblem


def test_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without pyarrow it is said what to install, as for whoever has a clone of Guard, and no file is begun."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)  # as Python marks what can't be imported
    with pytest.raises(EnvironmentProblem, match=r"in a clone of Guard:\n  pip install '\.\[audit\]'$"):
        export((), tmp_path / "found.parquet")
    assert not list(tmp_path.iterdir())
