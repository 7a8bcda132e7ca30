"""Measures the audit log: `python -m benchmarks.audit`.

First CPU time on the caller's thread (the event loop, in Guard), on the writer's, and in the kernel that writes files,
for one record: alone, with its input, and with its input where as many are kept as may be by default, so that one goes
for each. Then requests to running Guards, with and without a log, in turns, so that what else the machine does meets
all alike.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from guard.app import Sidecar
from guard.audit.log import AuditLog
from guard.audit.sampling import Sampler
from guard.observe.logs import configure_logging
from guard.observe.metrics import Metrics
from guard.profile import store
from guard.recording import Audit
from guard.values import Mode
from tests.app.parts import policy
from tests.audit.parts import decision, rejected, settings, sighting, writing
from tests.support import digits
from tests.support.loop import LoopThread
from tests.support.profiles import plain_profile
from tests.support.sidecars import client_of, embedded, running, wait_until
from tests.support.sidecars import settings as served

RESULT = Path(__file__).parents[1] / "results" / "audit.json"
SIDES_PX = (8, 28, 224)
_CALLS = 20_000
_RECORDS = 500
_TURNS, _REQUESTS = 200, 5
_US = 1e-3
_STAT_BLOCK_BYTES = 512


def main() -> None:
    """Measure, print and keep the figures."""
    configure_logging(json=True, level="error")  # as production logs: a line for each request would be most of the time
    with tempfile.TemporaryDirectory() as folder:
        figures = {
            "machine": platform.platform(),
            "command": "python -m benchmarks.audit",
            "one_request_us": _one_request(Path(folder)),
            "one_record_us": {f"{side}x{side}x3": _one_record(Path(folder) / str(side), side) for side in SIDES_PX},
            "running": _running(Path(folder)),
        }
    RESULT.write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2))  # noqa: T201 - what the command is for


def _cost_us(work: Callable[[], Any], calls: int) -> float:
    """CPU time of this thread for one call."""
    began = time.thread_time_ns()
    for _ in range(calls):
        work()
    return round((time.thread_time_ns() - began) / calls * _US, 2)


def _one_request(folder: Path) -> dict[str, float]:
    """What a request that is not recorded pays, and what choosing costs of that."""
    log, clean = AuditLog(settings(folder / "one"), Metrics()), decision()
    sampler = Sampler(Audit())
    return {
        "let_through": _cost_us(lambda: log.one_of(clean), _CALLS),
        "of_that_choosing": _cost_us(lambda: sampler.one_of(clean), _CALLS),
    }


def _one_record(folder: Path, side: int) -> dict[str, float]:
    """What a record costs its request, the writer and the kernel; with the input kept as well."""
    image = np.random.default_rng(0).random((1, 3, side, side), np.float32)
    seen = [sighting(rejected(str(index)), image) for index in range(_RECORDS)]
    found: dict[str, float] = {}
    folder.mkdir()
    with writing(settings(folder / "first", captured=True)) as (log, _):
        log.record(seen[0])  # which imports what the others find imported
    for name, captured in (("written", False), ("captured", True), ("captured_full", True)):
        given = settings(folder / name, captured=captured, max_queued_events=_RECORDS, max_queued_bytes=1 << 40)
        if name == "captured_full":
            found["kept_before"] = _fill(folder / name / "captures", given, folder / "captured" / "captures")
        started_s = time.perf_counter()
        with writing(given) as (log, _):
            found[f"start_{name}_ms"] = round((time.perf_counter() - started_s) * 1e3, 1)
            before, rest = resource.getrusage(resource.RUSAGE_SELF), iter(seen)
            found[f"request_{name}"] = _cost_us(lambda rest=rest, log=log: log.record(next(rest)), _RECORDS)  # type: ignore[misc]  # mypy sees no default of a lambda
        after = resource.getrusage(resource.RUSAGE_SELF)
        each_us = 1e6 / _RECORDS
        found[f"writer_{name}"] = round((after.ru_utime - before.ru_utime) * each_us - found[f"request_{name}"], 1)
        found[f"kernel_{name}"] = round((after.ru_stime - before.ru_stime) * each_us, 1)
    return found


def _fill(folder: Path, given: Audit, like: Path) -> int:
    """Keep as many inputs as there may be of the size of those in another folder: how many."""
    folder.mkdir(parents=True)
    size = next(like.iterdir()).stat().st_blocks * _STAT_BLOCK_BYTES
    most, soon_s = given.captures.max_bytes // size, int(time.time()) + 3600
    for index in range(most):
        file = folder / f"{soon_s + index // 100:010d}-{index}.sealed"
        file.touch()
        os.truncate(file, size)  # it counts as what it would take, and is made in a moment
    return most


def _running(folder: Path) -> dict[str, Any]:
    """The latency of requests by two Guards that answer in turns, and how it relates."""
    store.save(plain_profile(), folder / "profile")
    image = digits.load_data().test[0][:1]
    models = {"digits": policy(folder / "profile", mode=Mode.FLAG)}
    found: dict[str, Any] = {"requests_each": _TURNS * _REQUESTS}
    with ExitStack() as held:
        loop = held.enter_context(LoopThread())
        upstream = held.enter_context(embedded(loop, {"digits": digits.onnx_file()}))
        clients = {}
        for name, share in (("off", 0.0), ("sampled", 0.001), ("all", 1.0)):
            audit = Audit() if name == "off" else settings(folder / name, forwards=share)
            sidecar = held.enter_context(running(loop, Sidecar(served(upstream, models, audit=audit))))
            wait_until(sidecar)
            clients[name] = held.enter_context(client_of(sidecar.grpc_port))
        taken: dict[str, list[float]] = {name: [] for name in clients}
        for _ in range(_TURNS):
            for name, client in clients.items():
                for _ in range(_REQUESTS):
                    began_s = time.perf_counter()
                    client.ask("digits", image)
                    taken[name].append(time.perf_counter() - began_s)
    for name, share in (("median", 0.5), ("least_tenth", 0.1)):  # of a busy machine, the least tenth tells most
        at = {side: float(np.quantile(each, share)) for side, each in taken.items()}
        found[f"{name}_ms"] = {side: round(each * 1e3, 3) for side, each in at.items()}
        found[f"{name}_ratio"] = {side: round(each / at["off"], 3) for side, each in at.items() if side != "off"}
    return found


if __name__ == "__main__":
    main()
