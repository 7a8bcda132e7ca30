"""What is found of those who changed a log."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from guard.audit.export import export
from guard.audit.records import records
from guard.audit.segments import segments_of
from guard.audit.verify import verify
from guard.errors import DataError
from tests.audit.parts import written

Lines = list[bytes]


def folder_of(tmp_path: Path, *, split: bool = False) -> Path:
    """A log of six records, or one of two segments of three."""
    folder = tmp_path / "log"
    written(folder, *"abc")
    if split:
        written(folder, *"def")
    else:
        first = segments_of(folder)[0]
        first.unlink()
        written(folder, *"abcdef")
    return folder


def changed(folder: Path, how: Callable[[Lines], Lines], at: int = 0) -> list[str]:
    """What is found after the lines of a segment were changed."""
    segment = segments_of(folder)[at]
    segment.write_bytes(b"".join(how(segment.read_bytes().splitlines(keepends=True))))
    return [str(problem) for problem in verify(folder).problems]


def test_a_sound_log(tmp_path: Path) -> None:
    """A log that nobody changed has no problems, over segments too, and ends with the hash of its last line."""
    found = verify(folder_of(tmp_path, split=True))
    assert (found.problems, found.notes, found.segments, found.first, found.last.sequence) == ([], [], 2, 1, 6)
    assert found.last.hash in found.heads


def test_each_byte_counts(tmp_path: Path) -> None:
    """Whichever byte of a log is changed, it shows, and in which line; in the last line too."""
    folder = folder_of(tmp_path)
    (segment,) = segments_of(folder)
    content = segment.read_bytes()
    places = [*range(0, len(content), 97), len(content) - 1]
    for place in places:
        segment.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        line = content[:place].count(b"\n") + 1
        assert any(problem.line in {line, line + 1} for problem in verify(folder).problems), place
    segment.write_bytes(content)
    assert verify(folder).problems == []


def test_an_edit_with_its_hash_mended(tmp_path: Path) -> None:
    """Who writes another line with a hash that is right is found by the line behind it."""
    folder = folder_of(tmp_path)
    other = tmp_path / "other"
    written(other, *"abcdef", peers=False)
    theirs = segments_of(other)[0].read_bytes().splitlines(keepends=True)
    problems = changed(folder, lambda lines: [*lines[:2], theirs[2], *lines[3:]])
    name = segments_of(folder)[0].name
    text = "the line does not follow the one before it: one of them was replaced"
    assert problems == [f"{name}:3: {text}", f"{name}:4: {text}"]


def test_removed_lines(tmp_path: Path) -> None:
    """Lines that are missing between two others are counted, where they were."""
    problems = changed(folder_of(tmp_path), lambda lines: [*lines[:2], *lines[4:]])
    assert problems == ["guard-audit-000000000001.jsonl:3: 2 lines before this one were removed"]


def test_reordered_lines(tmp_path: Path) -> None:
    """Lines in another order are found."""
    problems = changed(folder_of(tmp_path), lambda lines: [lines[0], lines[2], lines[1], *lines[3:]])
    assert "guard-audit-000000000001.jsonl:3: the line is out of order: it was written as 2" in problems


def test_a_repeated_line(tmp_path: Path) -> None:
    """A line that is there twice is found."""
    problems = changed(folder_of(tmp_path), lambda lines: [*lines[:2], *lines[1:]])
    assert problems[0] == "guard-audit-000000000001.jsonl:3: the line is out of order: it was written as 2"


def test_a_segment_cut_off(tmp_path: Path) -> None:
    """A segment whose end was cut off is found by the next one, cut between two lines or within one."""
    folder = folder_of(tmp_path, split=True)
    assert changed(folder, lambda lines: lines[:2]) == [
        "guard-audit-000000000004.jsonl:1: 1 line before this one was removed"
    ]
    assert changed(folder, lambda lines: [lines[0], lines[1][:50]]) == [
        "guard-audit-000000000004.jsonl:1: 2 lines before this one were removed"
    ]


def test_a_segment_removed(tmp_path: Path) -> None:
    """A segment that is missing between two others, or at the beginning, is found."""
    folder = folder_of(tmp_path, split=True)
    written(folder, *"ghi")
    first, middle, _ = segments_of(folder)
    kept = middle.read_bytes()
    middle.unlink()
    assert [str(each) for each in verify(folder).problems] == [
        "guard-audit-000000000007.jsonl:1: 3 lines before this one were removed"
    ]
    middle.write_bytes(kept)
    first.unlink()
    assert [str(each) for each in verify(folder).problems] == [
        "guard-audit-000000000004.jsonl:1: the beginning is missing: 3 lines were removed, and not by Guard"
    ]


def test_segments_that_guard_removed(tmp_path: Path) -> None:
    """Where Guard removed old segments for want of room, the log says so, and nothing is wrong."""
    folder = tmp_path / "log"
    written(folder, *map(str, range(600)), segment_bytes=64 * 1024, volume_bytes=1024 * 1024)
    found = verify(folder)
    assert found.problems == []
    assert found.first > 1
    assert found.notes == [f"lines before {found.first} were removed by Guard, as the log itself says"]
    assert sum(path.stat().st_size for path in segments_of(folder)) <= 0.8 * 1024 * 1024


def test_the_end_cut_off(tmp_path: Path) -> None:
    """Lines cut off at the very end leave no trace but that Guard's last hash is missing."""
    folder = folder_of(tmp_path)
    head = verify(folder).last.hash
    assert changed(folder, lambda lines: lines[:-1]) == []
    assert head not in verify(folder).heads


def test_an_emptied_log(tmp_path: Path) -> None:
    """A log of which no line is left is not called sound; an empty segment behind others is told, for it may be."""
    folder = folder_of(tmp_path, split=True)
    *_, last = segments_of(folder)
    last.write_bytes(b"")
    found = verify(folder)
    assert (found.problems, found.last.sequence) == ([], 3)
    assert [note.partition(": it is empty: the writer was interrupted")[0] for note in found.notes] == [
        f"{last.name}:1"
    ]
    for segment in segments_of(folder):
        segment.write_bytes(b"")
    (problem,) = verify(folder).problems
    assert "no line of the log is left" in problem.what
    assert "--head" in problem.what


def test_no_log(tmp_path: Path) -> None:
    """A folder without a log, or none at all, is no sound log."""
    with pytest.raises(DataError, match="holds no audit log"):
        verify(tmp_path)
    with pytest.raises(DataError, match="name the audit log's folder"):
        verify(tmp_path / "gone")


def test_no_export_of_no_log(tmp_path: Path) -> None:
    """Where there is no log no file is written."""
    out = tmp_path / "found.parquet"
    with pytest.raises(DataError, match="holds no audit log"):
        export(records(tmp_path), out)
    assert not out.exists()
