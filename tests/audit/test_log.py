"""Writing beside requests: nothing waits, what is lost is counted, and a full disk is survived."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest

from guard.audit.log import FOUND, LOST, AuditLog
from guard.audit.records import records
from guard.audit.segments import segments_of
from guard.audit.verify import verify
from guard.errors import ConfigError, FileUnusable
from guard.recording import Audit, Captures, Outcome, Sink
from tests.audit.parts import Counted, decision, on_disk, rejected, settings, sighting, writing
from tests.support.waiting import wait_for

WRITTEN, SAMPLED_OUT = (Sink.LOG, Outcome.WRITTEN), (Sink.LOG, Outcome.SAMPLED_OUT)
DROPPED, FAILED = (Sink.LOG, Outcome.DROPPED), (Sink.LOG, Outcome.FAILED)
TMPFS_BYTES = 512 * 1024


def events_of(folder: Path) -> list[tuple[str, Any]]:
    """Type and data of each line."""
    lines = [json.loads(line) for path in segments_of(folder) for line in path.read_bytes().splitlines()]
    return [(line["type"], line["data"]) for line in lines]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system that is soon full."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={TMPFS_BYTES}", "none", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a file system takes rights that this user has not")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def test_records_are_written_in_order(tmp_path: Path) -> None:
    """Records are written as they come, and those that wait when Guard stops too."""
    with writing(settings(tmp_path / "log")) as (log, counted):
        for index in range(200):
            log.record(sighting(rejected(str(index))))
    assert [event["id"] for event in records(tmp_path / "log")] == [str(index) for index in range(200)]
    assert counted.of == {WRITTEN: 200}
    assert verify(tmp_path / "log").problems == []


def test_what_is_sampled_out_is_counted(tmp_path: Path) -> None:
    """A request that is simply let through is counted where it is not recorded."""
    with writing(settings(tmp_path / "log", forwards=0.0)) as (log, counted):
        assert log.one_of(decision()) == 0
        assert log.one_of(rejected()) == 1
    assert counted.of == {SAMPLED_OUT: 1}


@pytest.mark.parametrize("bound", [{"max_queued_events": 3}, {"max_queued_bytes": 3 * 256}], ids=["events", "bytes"])
def test_a_full_queue(tmp_path: Path, bound: dict[str, int]) -> None:
    """What finds the queue full is dropped and counted, and later the log says how many records it lacks."""
    counted = Counted()
    log = AuditLog(settings(tmp_path / "log", **bound), counted)  # it does not write yet, so nothing leaves the queue
    for index in range(8):
        log.record(sighting(rejected(str(index))))
    assert counted.of == {DROPPED: 5}
    log.start()
    log.close()
    assert counted.of == {DROPPED: 5, WRITTEN: 3}
    kinds = events_of(tmp_path / "log")
    assert [kind for kind, _ in kinds].count(FOUND) == 3
    assert [data for kind, data in kinds if kind == LOST] == [{"records": 5}]


def test_a_disk_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the disk hangs requests are taken, then dropped, and none of them waits."""
    hanging, entered = threading.Event(), threading.Event()

    def hang(_file: int) -> None:
        entered.set()
        assert hanging.wait(30)

    monkeypatch.setattr("os.fdatasync", hang)
    with writing(settings(tmp_path / "log", max_queued_events=2)) as (log, counted):
        log.record(sighting())
        assert entered.wait(30)
        for _ in range(5):
            log.record(sighting())  # the writer holds no lock that this would wait for
        assert counted.of == {DROPPED: 3}
        hanging.set()
    assert counted.of == {DROPPED: 3, WRITTEN: 3}


def test_a_full_disk(small_disk: Path, tmp_path: Path) -> None:
    """On a disk that is full records are lost and counted; once there is room, the log goes on and says how many."""
    ballast = small_disk / "ballast"
    given = settings(tmp_path / "log").model_copy(update={"folder": small_disk / "log"})
    with writing(given) as (log, counted):
        log.record(sighting(rejected("first")))
        wait_for(lambda: counted.of[WRITTEN] == 1)
        _fill(ballast)
        for index in range(40):
            log.record(sighting(rejected(f"lost{index}")))
        wait_for(lambda: counted.of[FAILED] + counted.of[WRITTEN] == 41)
        failed = counted.of[FAILED]
        assert failed > 0
        ballast.unlink()
        log.record(sighting(rejected("last")))
        wait_for(lambda: counted.of[WRITTEN] == 42 - failed)
        assert log.nbytes == sum(path.stat().st_size for path in segments_of(small_disk / "log"))
    found = verify(small_disk / "log")
    assert (found.problems, found.notes) == ([], [])
    ids = [event["id"] for event in records(small_disk / "log")]
    assert (ids[0], ids[-1], len(ids)) == ("first", "last", 42 - failed)
    assert sum(data["records"] for kind, data in events_of(small_disk / "log") if kind == LOST) == failed


def test_captures_on_a_full_disk(small_disk: Path, tmp_path: Path) -> None:
    """An input for which there is no room is counted as lost, and its record is written without it."""
    given = settings(tmp_path / "log", captured=True).model_copy(update={"folder": small_disk / "log"})
    image = np.zeros((1, 1, 512, 512), np.float32)
    with writing(given) as (log, counted):
        log.record(sighting(rejected(), image))  # a megabyte
    assert counted.of == {WRITTEN: 1, (Sink.CAPTURES, Outcome.FAILED): 1}
    (event,) = records(small_disk / "log")
    assert "dataref" not in event
    assert not list((small_disk / "log" / "captures").iterdir())


@pytest.mark.parametrize("now", ["off", "lower"])
def test_captures_of_an_earlier_policy(tmp_path: Path, now: str) -> None:
    """Inputs that are still there count, also once none is captured any more: all evidence stays within its share.

    Where fewer bytes are for inputs than before, the oldest of them go at once.
    """
    folder, mebibyte = tmp_path / "log", 1024 * 1024
    bounds = {"volume_bytes": mebibyte, "segment_bytes": 64 * 1024}
    given = settings(folder, captured=True, **bounds)
    key_file = given.captures.key_file
    more = given.model_copy(update={"captures": Captures(key_file=key_file, max_bytes=512 * 1024)})
    with writing(more) as (log, _):
        for index in range(130):
            log.record(sighting(rejected(f"before{index}")))
    kept = {path.name for path in (folder / "captures").iterdir()}
    assert len(kept) > 100
    captures = Captures() if now == "off" else Captures(key_file=key_file, max_bytes=128 * 1024)
    with writing(given.model_copy(update={"captures": captures})) as (log, _):
        for index in range(400):
            log.record(sighting(decision(uid=f"after{index}")))
            assert on_disk(folder) <= mebibyte
    left = {path.name for path in (folder / "captures").iterdir()}
    assert left == kept if now == "off" else 20 < len(left) <= 32
    assert on_disk(folder) <= 0.8 * mebibyte + 64 * 1024  # whole blocks of the log, its folder and its lock
    assert sum(path.stat().st_size for path in segments_of(folder)) > 128 * 1024
    assert verify(folder).problems == []


def test_nothing_stops_the_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record that can't be made, for whatever reason, is counted, and the next one is written."""

    def fail(*_arguments: object, **_options: object) -> None:
        raise RuntimeError("as a mistake in Guard would")

    with writing(settings(tmp_path / "log")) as (log, counted):
        with monkeypatch.context() as patched:
            patched.setattr("guard.audit.log.finding_of", fail)
            log.record(sighting())
            wait_for(lambda: counted.of[FAILED] == 1)
        log.record(sighting())
    assert counted.of == {FAILED: 1, WRITTEN: 1}


def test_keys_are_checked(tmp_path: Path) -> None:
    """A log without a key for pseudonyms, or with one that is too short, does not start."""
    with pytest.raises(ConfigError, match=r"audit.folder needs audit.pseudonym_key_file"):
        AuditLog(Audit(folder=tmp_path), Counted())
    short = tmp_path / "short"
    short.write_bytes(b"x" * 15)
    with pytest.raises(FileUnusable, match=r"short holds 15 bytes, and a key needs 16 or more; run `head -c 32"):
        AuditLog(Audit(folder=tmp_path, pseudonym_key_file=short), Counted())


def _fill(path: Path) -> None:
    """Write until the disk takes no more."""
    with path.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        _write_for_ever(file)


def _write_for_ever(file: BinaryIO) -> None:
    while True:
        file.write(b"x" * 4096)
