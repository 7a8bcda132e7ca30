"""Rows 9 and 10: what the engine does to waiting requests and to the event loop, under load and overload."""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from functools import partial

import grpc
import numpy as np

from benchmarks.engine.bench import SENSITIVITY
from benchmarks.engine.clock import seconds
from benchmarks.engine.echo import METHOD
from benchmarks.engine.subject import SIGMA, Subject, Submits, engine, screen
from benchmarks.engine.table import Row
from guard.errors import Overloaded
from guard.profile import spec
from guard.screen.smoothing import at_radius
from guard.values import Float32Array, Screening

SPECS = (SENSITIVITY, at_radius(spec.SmoothingSpec(sigma=SIGMA, radius=SIGMA), 0.5 * SIGMA))  # as calibration does
DEADLINE_S = 0.1
_LOAD = 0.4
_SHARE = 12
"""Of the time for a row, what it takes to find the capacity first."""
_ECHO_RATE = 200.0


class Traffic:
    """Poisson arrivals at a rate, from a thread of their own; latencies of what was answered."""

    def __init__(
        self, engine: Submits, images: Sequence[Float32Array] | Float32Array, rate: float, deadline_s: float | None
    ) -> None:
        self.latencies: list[float] = []
        self.refused = 0
        self.sent = 0
        self._engine = engine
        self._images = images
        self._rate = rate
        self._deadline_s = deadline_s
        self._waiting: set[Future[Screening]] = set()

    def run(self, duration_s: float, rng: np.random.Generator) -> None:
        """Send for so long, and wait for the answers."""
        due = begun = time.perf_counter()
        while due - begun < duration_s:
            pause = due - time.perf_counter()
            if pause > 0:
                time.sleep(pause)
            self._send(due)
            due += rng.exponential(1 / self._rate)
        while self._waiting:  # until each has been heard of, which is a moment after its answer
            for future in list(self._waiting):
                future.exception()
            time.sleep(1e-3)

    def _send(self, due: float) -> None:
        image = self._images[self.sent % len(self._images)]
        self.sent += 1
        try:
            future = self._engine.submit(image, deadline_s=self._deadline_s)
        except Overloaded:
            self.refused += 1
            return
        self._waiting.add(future)

        def answered(future: Future[Screening]) -> None:
            if future.exception() is None:
                self.latencies.append(time.perf_counter() - due)
            self._waiting.discard(future)

        future.add_done_callback(answered)


def capacity(running: Submits, subject: Subject, duration_s: float) -> float:
    """Requests a second with as many in flight as keep the engine busy."""
    count = max(32, int(duration_s / (25 * subject.evaluation_s)))
    images = [subject.images[i % len(subject.images)] for i in range(count)]
    return count / seconds(lambda: screen(running, images))


def poisson(subject: Subject, duration_s: float, seed: int) -> Iterator[Row]:
    """Row 9, first half: the share answered within 100 ms at 40 % of capacity."""
    with engine(subject, SPECS) as running:
        shares, worst, sent = [], [], 0
        for turn in range(3):
            rate = _LOAD * capacity(running, subject, duration_s / _SHARE)
            traffic = Traffic(running, list(subject.images), rate, None)
            traffic.run(duration_s / 3, np.random.default_rng(seed + turn))
            shares.append(sum(latency <= DEADLINE_S for latency in traffic.latencies) / traffic.sent)
            worst.append(max(traffic.latencies))
            sent += traffic.sent
    yield Row(
        9,
        "Poisson load at 40 %: answered within 100 ms",
        subject.name,
        statistics.median(shares),
        min(shares),
        max(shares),
        1.0,
        "at least",
        f"{sent} requests, the slowest took {max(worst) * 1000:.0f} ms",
    )


def overload(subject: Subject, duration_s: float, seed: int) -> Iterator[Row]:
    """Row 10: goodput (screened within 100 ms) at two and four times the capacity, of the capacity."""
    with engine(subject, SPECS) as running:
        for factor in (2, 4):
            found, refused, sent = [], 0, 0
            for turn in range(3):
                full = capacity(running, subject, duration_s / _SHARE)
                traffic = Traffic(running, list(subject.images), factor * full, DEADLINE_S)
                elapsed = seconds(partial(traffic.run, duration_s / 3, _rng(seed, turn)))
                in_time = sum(latency <= DEADLINE_S for latency in traffic.latencies)
                found.append(in_time / elapsed / full)
                refused += traffic.refused
                sent += traffic.sent
            detail = f"{sent} requests, {refused} refused at the door; in time means within {DEADLINE_S * 1000:.0f} ms"
            median = statistics.median(found)
            compare = f"goodput at {factor}x capacity"
            yield Row(10, compare, subject.name, median, min(found), max(found), 0.9, "at least", detail)


def echo(subject: Subject, duration_s: float, seed: int) -> Iterator[Row]:
    """Row 9, second half: p99 of an echo on the gRPC loop with the engine at 40 % of capacity, over the idle one."""
    with engine(subject, SPECS) as running:
        idle, busy = asyncio.run(echo_p99s(subject, running, duration_s, seed))
    ratios = sorted(above / below for above, below in zip(busy, idle, strict=True))
    detail = f"{_ECHO_RATE:g} echoes a second; p99 idle {_ms(idle)}, busy {_ms(busy)}"
    found = statistics.median(ratios)
    yield Row(9, "echo p99, engine busy over idle", subject.name, found, ratios[0], ratios[-1], 1.3, "at most", detail)


async def echo_p99s(
    subject: Subject, running: Submits, duration_s: float, seed: int, *, turns: int = 3
) -> tuple[list[float], list[float]]:
    """The p99 with the engine idle, and with it at 40 % of its capacity, turn by turn."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((_Echo(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    full = await asyncio.to_thread(capacity, running, subject, duration_s / _SHARE)
    idle, busy = [], []
    part_s = duration_s / (2 * turns)
    for turn in range(turns):
        idle.append(await _p99(port, part_s))
        traffic = Traffic(running, list(subject.images), _LOAD * full, None)
        thread = threading.Thread(target=traffic.run, args=(part_s + 1.5, _rng(seed, turn)))
        thread.start()
        await asyncio.sleep(0.2)
        busy.append(await _p99(port, part_s))
        await asyncio.to_thread(thread.join)
    await server.stop(0)
    return idle, busy


async def _p99(port: int, duration_s: float) -> float:
    command = [sys.executable, "-m", "benchmarks.engine.echo", f"127.0.0.1:{port}", str(duration_s), str(_ECHO_RATE)]
    client = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    output, _ = await client.communicate()
    return float(np.quantile(json.loads(output), 0.99))


class _Echo(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # generic in the stubs only
    """Answers what it was sent."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:  # type: ignore[type-arg]  # as above
        """Serve the one method."""
        if handler_call_details.method != METHOD:
            return None
        return grpc.unary_unary_rpc_method_handler(_answer)


async def _answer(request: bytes, _context: object) -> bytes:
    return request


def _rng(seed: int, turn: int) -> np.random.Generator:
    return np.random.default_rng((seed, turn))


def _ms(values: Sequence[float]) -> str:
    return " ".join(f"{value * 1000:.2f}" for value in values) + " ms"
