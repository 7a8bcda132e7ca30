"""Paths that can't be looked up: as root permissions bind nobody, and too long a name is refused to all."""

from __future__ import annotations

from pathlib import Path

from guard.paths import no_file, unseen

TOO_LONG = "x" * 300
WHY = "can't be read (File name too long)"


def test_unseen(tmp_path: Path) -> None:
    """What is there can be seen, and nothing too; what the system refuses to look for can't."""
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    assert [unseen(tmp_path / name) for name in (".", "file", "gone", "file/within")] == [""] * 4
    assert unseen(tmp_path / TOO_LONG) == WHY
    assert unseen(tmp_path / "loop").startswith("can't be read (Too many levels")


def test_no_file(tmp_path: Path) -> None:
    """A file is one; a folder, or nothing, is not."""
    (tmp_path / "file").touch()
    assert [no_file(tmp_path / name) for name in ("file", ".", "gone")] == ["", *["is not a file"] * 2]
    assert no_file(tmp_path / TOO_LONG) == WHY
