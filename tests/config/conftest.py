"""A folder with what a policy file refers to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a policy file beside a profile, a model and two secrets, one of them too short."""
    (tmp_path / "prof").mkdir()
    (tmp_path / "prof" / "profile.json").write_text("{}")
    (tmp_path / "empty").mkdir()
    (tmp_path / "m.onnx").write_bytes(b"model")
    (tmp_path / "secret").write_bytes(bytes(16))
    (tmp_path / "short").write_bytes(bytes(15))
    (tmp_path / "nothing").write_bytes(b"\n")

    def write(text: str) -> Path:
        path = tmp_path / "policy.yaml"
        path.write_text(text)
        return path

    return write
