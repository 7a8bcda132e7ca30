"""The audit log's disk is full, and then it is not: requests are answered as before, and the log goes on."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.chaos.house import Guard, House
from benchmarks.chaos.load import Answers, client, quantile_ms
from benchmarks.chaos.table import Check, Impossible
from guard.audit.log import LOST
from guard.audit.segments import segments_of
from guard.audit.verify import verify

_RATE = 50
_DISK_BYTES = 1024 * 1024
_SETTLED_S = 30.0
_SOON_S = 0.5
_BLOCK = b"x" * 4096
_AT_MOST = 1.10
_OK = 200
_COUNTED = r'guard_audit_events_total\{outcome="(%s)",sink="log"\}'


async def disk_full(house: House, seconds: float) -> list[Check]:
    """So many seconds with room, on a full disk, and with room again; every request is to be recorded."""
    with _small_disk(house.folder / "disk") as disk:
        log, bounds = disk / "log", {"volume_bytes": _DISK_BYTES, "segment_bytes": 64 * 1024}
        with house.guard("audited", audit=house.audit(log) | bounds) as guard:
            checks = await _with_and_without_room(house, guard, log, disk / "ballast", seconds)
        return [
            *checks,
            Check("problems that `guard audit verify` finds", len(verify(log).problems), "=", 0),
        ]


async def _with_and_without_room(house: House, guard: Guard, log: Path, ballast: Path, seconds: float) -> list[Check]:
    async with client(house.body, guard.address) as clients:
        quiet = await clients.for_a_time(_RATE, seconds, timeout_s=30.0)
        await _settled(guard, quiet)
        _fill(ballast)
        full = await clients.for_a_time(_RATE, seconds, timeout_s=30.0)
        await _settled(guard, quiet, full)
        ready, lost, written = guard.get("/readyz")[0], _counted(guard, "failed|dropped"), _counted(guard, "written")
        await asyncio.to_thread(ballast.unlink)
        first = await clients.for_a_time(_RATE, _SOON_S, timeout_s=30.0)
        await _settled(guard, quiet, full, first)
        told = _told(log)  # now, while the oldest segments are still there
        after = await clients.for_a_time(_RATE, seconds, timeout_s=30.0)
        amiss = await _settled(guard, quiet, full, first, after)
    p99 = [quantile_ms(took_s, 0.99) for took_s in ([*quiet.took_s, *after.took_s], full.took_s)]
    return [
        Check("requests lost", sum(each.lost() for each in (quiet, full, first, after)), "=", 0),
        Check(f"p99 on a full disk, to {p99[0]:.1f} ms", p99[1] / p99[0], "<=", _AT_MOST, "times", timed=True),
        Check("records lost on a full disk, and counted", lost, ">", 0),
        Check("records that the log says it lacks, of those lost", told - lost, "=", 0),
        Check("/readyz then", ready, "=", _OK),
        Check("records written once there was room", _counted(guard, "written") - written, ">", 0),
        Check("records lost then", _counted(guard, "failed|dropped") - lost, "=", 0),
        Check("requests whose record is neither written nor counted as lost", amiss, "=", 0),
    ]


async def _settled(guard: Guard, *sent: Answers) -> float:
    """Wait until each request's record is counted: how many are not."""
    requests, ends_s = sum(len(answers.codes) for answers in sent), time.perf_counter() + _SETTLED_S
    while (amiss := requests - _counted(guard, r"\w+")) and time.perf_counter() < ends_s:  # noqa: ASYNC110 - another process
        await asyncio.sleep(0.1)
    return amiss


def _counted(guard: Guard, outcome: str) -> float:
    return guard.counted(_COUNTED % outcome)


def _told(log: Path) -> int:
    """How many records the log says that it lacks."""
    lines = (line for path in segments_of(log) for line in path.read_text().splitlines())
    return sum(json.loads(line)["data"]["records"] for line in lines if LOST in line)


def _fill(path: Path) -> None:
    """Write until the disk takes no more."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(_BLOCK)


@contextmanager
def _small_disk(folder: Path) -> Iterator[Path]:
    """A real file system that is soon full.

    Raises:
        Impossible: this user may mount none.
    """
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={_DISK_BYTES}", "none", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:  # noqa: S603 - nothing of it is foreign
        raise Impossible("mounting a file system takes rights that this user has not")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)  # noqa: S603, S607 - as above, by its usual name
