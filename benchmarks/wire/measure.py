"""One cell: a variant under a payload at a concurrency, with what its proxy's processors spent."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.wire.parts import Variant

_IDLE_SHARE = 0.1
_LOOK_S = 0.05
_SETTLE_S = 5.0


@dataclass(frozen=True, slots=True)
class Cell:
    """What was measured. `cpu_s` is the proxy's for a request, None where there is none; `failed` of `requests`."""

    round: int
    payload: str
    concurrency: int
    variant: str
    requests: int
    failed: int
    problem: str
    per_s: float
    p50_s: float
    p99_s: float
    cpu_s: float | None


class Load:
    """The process that sends."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def run(self, variant: Variant, body: Path, requests: int, concurrency: int, *, of: tuple[int, str]) -> Cell:
        """Send so many requests; `of` are the round and the payload's name.

        What a proxy does for them after the last answer, such as screening in shadow, counts too.
        """
        asked = {"protocol": variant.protocol, "address": variant.address, "body": str(body)}
        self._tell(asked | {"requests": requests, "concurrency": concurrency})
        heard = self._hear()
        if heard != "ready":
            raise RuntimeError(f"the load for {variant.name} did not begin: {heard}")
        _settle(variant.pids)
        before_s = cpu_s(variant.pids)
        self._tell({})
        found = json.loads(self._hear())
        _settle(variant.pids)
        spent_s = cpu_s(variant.pids) - before_s
        latencies = found["latencies_s"]
        return Cell(
            *of,
            concurrency,
            variant.name,
            requests,
            found["failed"],
            found["problem"],
            (requests - found["failed"]) / found["took_s"],
            float(np.median(latencies)),
            float(np.quantile(latencies, 0.99)),
            spent_s / requests if variant.pids else None,
        )

    def _tell(self, what: dict[str, object]) -> None:
        assert self._process.stdin is not None  # noqa: S101 - for the type checker: it is a pipe
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()

    def _hear(self) -> str:
        assert self._process.stdout is not None  # noqa: S101 - as above
        return self._process.stdout.readline().strip()


@contextmanager
def load() -> Iterator[Load]:
    """The process that sends, ended at the end."""
    command = [sys.executable, "-m", "benchmarks.wire.load"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:  # noqa: S603 - nothing is foreign
        try:
            yield Load(process)
        finally:
            process.kill()


def cpu_s(pids: Iterable[int]) -> float:
    """Seconds that processes have spent on processors, all their threads together; to the nanosecond."""
    # The id that Linux gives a process's CPU clock, as clock_getcpuclockid(3) makes it. /proc counts in 10 ms.
    return sum(time.clock_gettime(~pid << 3 | 2) for pid in pids)


def _settle(pids: Sequence[int]) -> None:
    """Wait until processes have nothing to do, for some seconds at most."""
    ends_s = time.monotonic() + _SETTLE_S
    while pids and time.monotonic() < ends_s:
        before_s = cpu_s(pids)
        time.sleep(_LOOK_S)
        if cpu_s(pids) - before_s < _IDLE_SHARE * _LOOK_S:
            return
