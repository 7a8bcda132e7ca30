"""Records of a log, read one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from guard.audit.chain import read
from guard.audit.log import FOUND
from guard.audit.segments import segments_of
from guard.errors import DataError


def records(folder: Path) -> Iterator[Mapping[str, Any]]:
    """The records of requests in a folder, the oldest first. Lines that are none are left out: `verify` names them.

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
    for segment in segments:
        with segment.open("rb") as file:
            for raw in file:
                line = read(raw.rstrip(b"\n"))
                if line is not None and line.sound and line.event.get("type") == FOUND:
                    yield line.event


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
