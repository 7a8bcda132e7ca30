"""Requests to record, and where to record them."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from guard.audit.log import REMOVED, AuditLog
from guard.audit.segments import Segments
from guard.audit.sighting import Sighting
from guard.recording import Audit, Captures, Outcome, Sink
from guard.values import (
    Action,
    Decision,
    Evidence,
    InferRequest,
    ItemDecision,
    Mode,
    Occlusion,
    Probing,
    Provenance,
    Together,
    Verdict,
    WireTensor,
)

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
IMAGE = np.linspace(0, 1, 64, dtype=np.float32).reshape(1, 1, 8, 8)
BY = Provenance(
    policy="abc123",
    profile="def456",
    fingerprint="0" * 64,
    version="3",
    detectors={"sensitivity": "1+a"},
    input_name="input",
    shape=(1, 8, 8),
    layout="chw",
)


def probing(*, suspicious: bool = False, condemns: bool = False) -> Probing:
    """What the query memory found."""
    return Probing(
        "queries", of_client=4, of_everyone=5, suspicious=suspicious, condemns=condemns, group="00000000000000ab"
    )


def decision(
    verdict: Verdict = Verdict.CLEAN, action: Action = Action.FORWARD, *findings: Any, uid: str = "d1", **more: Any
) -> Decision:
    """A decision about one item, of which a detector said something."""
    said = (Evidence("sensitivity", 0.5, 16, 0.002, {"rate": 0.5}, samples=5000, share=0.61), *findings)
    items = (ItemDecision(verdict, 0.004, said, together=Together(0.0002, 200, 0.72)),)
    settings = {"mode": Mode.ENFORCE, "intended": action, "items": items} | more
    return Decision(uid, "digits", settings.pop("mode"), verdict, 0.004, settings.pop("intended"), action, **settings)


def rejected(uid: str = "d1", **more: Any) -> Decision:
    """A rejection."""
    heat = Occlusion(heat=((0.1, 0.9), (0.2, 0.3)), hottest=(0, 4, 4, 4), tops=(0, 4), lefts=(0, 4))
    said = Evidence("occlusion", 1.5, 9, 0.003, occlusion=heat, samples=200, share=0.39)
    return decision(Verdict.ADVERSARIAL, Action.REJECT, said, uid=uid, **more)


def sighting(what: Decision | None = None, image: np.ndarray = IMAGE, **more: Any) -> Sighting:
    """A request with one tensor, as the wire saw it."""
    tensor = WireTensor("input", "FP32", image.shape, raw=memoryview(image.tobytes()))
    settings: dict[str, Any] = {
        "client": "ipv4:10.0.0.7",
        "peer": "ipv4:10.0.0.7:5000",
        "protocol": "grpc",
        "traceparent": TRACE,
        "tracestate": "a=b",
        "provenance": BY,
        "duration_s": 0.01,
        "one_of": 1,
    }
    return Sighting(what or rejected(), InferRequest("digits", "", "r1", (tensor,)), **(settings | more))


def on_disk(folder: Path) -> int:
    """What `du` says of a folder, as a kubelet measures an `emptyDir`. What is removed meanwhile it complains of."""
    return int(subprocess.run(["du", "-s", "-B1", folder], capture_output=True, check=False).stdout.split()[0])


class Counted:
    """Counts what a log reports."""

    def __init__(self) -> None:
        self.of: Counter[tuple[Sink, Outcome]] = Counter()

    def audited(self, sink: Sink, outcome: Outcome, number: int = 1) -> None:
        """Count."""
        self.of[sink, outcome] += number


def settings(folder: Path, *, captured: bool = False, **more: Any) -> Audit:
    """Settings of a log in `folder`, with keys beside it."""
    names, captures = folder.with_suffix(".names"), folder.with_suffix(".captures")
    names.write_bytes(bytes(range(32)))
    captures.write_bytes(bytes(range(32, 64)))
    kept = {"captures": Captures(key_file=captures)} if captured else {}
    return Audit(**({"folder": folder, "pseudonym_key_file": names} | kept | more))


@contextmanager
def writing(given: Audit) -> Iterator[tuple[AuditLog, Counted]]:
    """A log that writes, and what it counts; when it ends, all is written."""
    counted = Counted()
    log = AuditLog(given, counted)
    log.start()
    try:
        yield log, counted
    finally:
        log.close()


def written(folder: Path, *uids: str, **more: Any) -> None:
    """Write a log of rejections."""
    with writing(settings(folder, **more)) as (log, _):
        for uid in uids:
            log.record(sighting(rejected(uid)))


@contextmanager
def segments(folder: Path, **more: Any) -> Iterator[Segments]:
    """The files of a log, closed at the end."""
    bounds = {"segment_bytes": 1000, "max_bytes": 5000, "retention_s": 1000.0} | more

    def removed(names: Sequence[str], last: str) -> dict[str, Any]:
        return {"type": REMOVED, "data": {"segments": list(names), "lasthash": last}}

    made = Segments(folder, removed=removed, **bounds)
    try:
        yield made
    finally:
        made.close()
