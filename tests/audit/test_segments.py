"""The log's files: their bounds, and what is found in them when Guard starts again."""

from __future__ import annotations

from pathlib import Path

import pytest

from guard.audit.chain import GENESIS
from guard.audit.segments import Segments, segments_of
from guard.audit.verify import verify
from guard.errors import ConfigError
from tests.audit.parts import segments

EVENT = {"type": "event", "data": "x" * 100}


def test_segments_are_bounded(tmp_path: Path) -> None:
    """A segment is closed at its size, the whole at its own, and the oldest go, which the log itself says."""
    with segments(tmp_path) as log:
        for _ in range(60):
            assert log.append([EVENT]) == 1
            assert log.nbytes == sum(path.stat().st_size for path in segments_of(tmp_path))
            assert log.nbytes <= 5000 + 700  # a record of what was removed
    assert all(path.stat().st_size < 1000 + 700 for path in segments_of(tmp_path))
    found = verify(tmp_path)
    assert found.first > 1
    assert found.problems == []
    assert found.notes == [f"lines before {found.first} were removed by Guard, as the log itself says"]


def test_a_batch_goes_over_segments(tmp_path: Path) -> None:
    """A batch larger than a segment is written over several."""
    with segments(tmp_path, max_bytes=100_000) as log:
        assert log.append([EVENT] * 20) == 20
    assert len(segments_of(tmp_path)) > 2
    assert verify(tmp_path).problems == []


def test_the_chain_goes_on(tmp_path: Path) -> None:
    """When Guard starts again, the chain goes on in a segment of its own."""
    with segments(tmp_path) as log:
        log.append([EVENT, EVENT])
    with segments(tmp_path) as log:
        assert log.last.sequence == 2
        log.append([EVENT])
    found = verify(tmp_path)
    assert (found.segments, found.first, found.last.sequence, found.problems) == (2, 1, 3, [])


@pytest.mark.parametrize("kept", [1, 40], ids=["after the first byte", "within a line"])
def test_an_interrupted_writer(tmp_path: Path, kept: int) -> None:
    """What a killed writer left of a line is no problem: the chain goes on behind the last whole line."""
    with segments(tmp_path) as log:
        log.append([EVENT, EVENT])
    (segment,) = segments_of(tmp_path)
    lines = segment.read_bytes().splitlines(keepends=True)
    segment.write_bytes(lines[0] + lines[1][:kept])
    with segments(tmp_path) as log:
        log.append([EVENT])
    found = verify(tmp_path)
    assert (found.problems, found.last.sequence) == ([], 2)
    assert found.notes == [f"{segment.name}:2: the writer was interrupted within this line"]


def test_a_writer_that_was_interrupted_at_once(tmp_path: Path) -> None:
    """A segment without a whole line is begun again."""
    (tmp_path / "guard-audit-000000000001.jsonl").write_bytes(b'{"spec')
    with segments(tmp_path) as log:
        assert (log.last.sequence, log.last.hash) == (0, GENESIS)
        log.append([EVENT])
    assert verify(tmp_path).problems == []
    assert verify(tmp_path).notes == []


def test_old_records_go(tmp_path: Path) -> None:
    """Records go once they are older than they are kept, also where nothing more is recorded."""
    now = [0.0]

    def clock() -> float:
        return tmp_path.stat().st_ctime + now[0]

    with segments(tmp_path, now_s=clock) as log:
        log.append([EVENT])
        now[0] = 200.0  # over an eighth of the time that they are kept
        log.expire()
        assert len(segments_of(tmp_path)) == 1
        now[0] = 1201.0
        log.expire()
        (left,) = segments_of(tmp_path)
        assert b"removed" in left.read_bytes()


def test_one_writer_a_folder(tmp_path: Path) -> None:
    """A second Guard does not write into the same folder, until the first has ended."""
    with segments(tmp_path), pytest.raises(ConfigError, match=r"another Guard's, which runs; give each a folder"):
        Segments(tmp_path, segment_bytes=1, max_bytes=1, retention_s=1.0, removed=lambda _names, _last: {})
    with segments(tmp_path):
        pass


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    """A folder that can't be made is refused at start."""
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(ConfigError, match=r"audit.folder .*file/log can't be written to"),
        segments(tmp_path / "file/log"),
    ):
        pass


def test_a_segment_that_somebody_removed(tmp_path: Path) -> None:
    """The log goes on where somebody removed its oldest segments, and does not say that Guard did."""
    with segments(tmp_path) as log:
        for _ in range(12):
            log.append([EVENT])
        gone, *_ = segments_of(tmp_path)
        gone.unlink()
        for _ in range(12):
            assert log.append([EVENT]) == 1
        assert not any(gone.name.encode() in path.read_bytes() for path in segments_of(tmp_path))


def test_less_room(tmp_path: Path) -> None:
    """What takes the log's room beside it goes off what it may take, and the oldest segments go at once."""
    beside = [0]
    with segments(tmp_path, beside=lambda: beside[0]) as log:
        for _ in range(60):
            log.append([EVENT])
        before, beside[0] = log.nbytes, 2500
        log.expire()
        assert log.nbytes <= 2500 + 700 < before  # a record of what was removed
    assert verify(tmp_path).problems == []
