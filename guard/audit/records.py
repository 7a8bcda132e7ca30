"""Records of a log, read one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from guard.audit.chain import read
from guard.audit.log import FOUND
from guard.audit.segments import segments_of
from guard.errors import DataError


def quietly(_segments: int) -> None:
    """Tell nobody."""


def log_of(folder: Path) -> list[Path]:
    """The segments of the log in a folder, the oldest first.

    Raises:
        DataError: there is no log.
    """
    try:
        segments = segments_of(folder)
    except OSError as exc:
        raise DataError(f"{folder} can't be read ({exc.strerror}); name the audit log's folder") from exc
    if not segments:
        raise DataError(
            f"{folder} holds no audit log: there is no guard-audit-*.jsonl in it; "
            "name the folder that the policy has as audit.folder"
        )
    return segments


def lines_of(segment: Path) -> Iterator[bytes]:
    """The lines of a segment, as they are.

    Raises:
        DataError: it can't be read.
    """
    try:
        with segment.open("rb") as file:
            yield from file
    except OSError as exc:
        raise DataError(
            f"{segment} can't be read ({exc.strerror}): look as the user that Guard runs as, or as one of its group"
        ) from exc


def records(folder: Path, advance: Callable[[int], object] = quietly) -> Iterator[Mapping[str, Any]]:
    """The records of requests in a folder, the oldest first. Lines that are none are left out: `verify` names them.

    `advance` is called with the number of segments just read.

    Raises:
        DataError: there is no log, or it can't be read.
    """
    for segment in log_of(folder):
        for raw in lines_of(segment):
            line = read(raw.rstrip(b"\n"))
            if line is not None and line.sound and line.event.get("type") == FOUND:
                yield line.event
        advance(1)


def record_of(folder: Path, uid: str) -> Mapping[str, Any]:
    """The record of a decision, by its id or by the id that the client gave its request.

    Raises:
        DataError: there is none, or there are several.
    """
    found = [each for each in records(folder) if uid and uid in {each["id"], _rest(each).get("request_id")}]
    if not found:
        raise DataError(
            f"{folder} has no record of {uid}: it was let through and not sampled, it is older than records are kept, "
            "or it went by another replica of Guard"
        )
    if len(found) > 1:
        ids = ", ".join(each["id"] for each in found[:5])
        raise DataError(f"{len(found)} requests had the id {uid}; give the id of a decision: {ids}")
    return found[0]


def _rest(event: Mapping[str, Any]) -> Mapping[str, Any]:
    rest: Mapping[str, Any] = event["data"]["unmapped"]["guard"]
    return rest
