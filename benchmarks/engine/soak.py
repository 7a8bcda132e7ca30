"""A long run at 80 % load with random cancellations: memory stays flat, and no slot is lost.

`python -m benchmarks.engine.soak --data FOLDER --minutes 30`, or `make soak`.
"""

from __future__ import annotations

import gc
import json
import random
import time
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.progress import Progress

from benchmarks import data, models
from benchmarks.engine.load import SPECS, capacity
from benchmarks.engine.subject import Subject, engine, subject
from benchmarks.engine.table import machine
from guard.errors import DeadlineExceeded, Overloaded
from guard.screen.engine import Engine
from guard.values import Fault, FaultReason, Screening

_LOAD = 0.8
_CANCELLED = 0.2
_LATEST = 256
_DEADLINE_S = 0.5
_WARM_UP = 0.2
_SAMPLE_S = 1.0
_MB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Soak:
    """What came of it. `slope_mb_per_h` is of resident memory after the warm-up, by least squares."""

    minutes: float
    sent: int
    screened: int
    cancelled: int
    expired: int
    refused: int
    live_at_end: int
    queued_at_end: int
    rss_mb: tuple[float, float, float]
    slope_mb_per_h: float

    @property
    def holds(self) -> bool:
        """Whether nothing was lost and memory was flat."""
        lost = self.sent - self.screened - self.cancelled - self.expired - self.refused
        return lost == self.live_at_end == self.queued_at_end == 0 and self.slope_mb_per_h < 5  # noqa: PLR2004 - MB/h


def soak(running: Engine, images: Subject, *, seconds: float, rate: float, seed: int, tick: Progress | None) -> Soak:
    """Send Poisson traffic, try to cancel a fifth of it while it waits or is screened, and watch the memory."""
    rng = random.Random(seed)  # noqa: S311 - arrivals, no secrets
    task = tick.add_task("soaking", total=seconds) if tick else None
    futures: list[Future[Screening]] = []
    counts = {"screened": 0, "cancelled": 0, "expired": 0}
    sent = refused = 0
    rss: list[tuple[float, float]] = []
    begun = due = time.perf_counter()
    while (now := time.perf_counter()) - begun < seconds:
        if not rss or now - begun - rss[-1][0] >= _SAMPLE_S:
            futures = [future for future in futures if not _counted(future, counts)]
            rss.append((now - begun, _rss_mb()))
            if tick and task is not None:
                tick.update(task, completed=now - begun)
        if futures and rng.random() < _CANCELLED:
            _cancel_one(rng, futures)
        time.sleep(max(0.0, due - now))
        due += rng.expovariate(rate)
        sent += 1
        try:
            futures.append(running.submit(images.images[sent % len(images.images)], deadline_s=_DEADLINE_S))
        except Overloaded:
            refused += 1
    for future in futures:
        if not future.cancelled():
            future.exception(timeout=10)
    for future in futures:
        _counted(future, counts)
    time.sleep(0.2)
    warm = rss[int(len(rss) * _WARM_UP) :]
    slope = float(np.polyfit([t for t, _ in warm], [mb for _, mb in warm], 1)[0]) * 3600
    sizes = [mb for _, mb in warm]
    return Soak(
        minutes=seconds / 60,
        sent=sent,
        refused=refused,
        live_at_end=running.live,
        queued_at_end=running.depth,
        rss_mb=(sizes[0], max(sizes), sizes[-1]),
        slope_mb_per_h=slope,
        **counts,
    )


def _cancel_one(rng: random.Random, futures: list[Future[Screening]]) -> None:
    """One of the latest that isn't done, if there is one."""
    waiting = [future for future in futures[-_LATEST:] if not future.done()]
    if waiting:
        rng.choice(waiting).cancel()


def _counted(future: Future[Screening], counts: dict[str, int]) -> bool:
    """Whether it is over; then it is counted, as what it became."""
    if not future.done():
        return False
    if future.cancelled():
        counts["cancelled"] += 1
    elif isinstance(future.exception(), DeadlineExceeded) or _cut_short(future.result()):
        counts["expired"] += 1
    else:
        counts["screened"] += 1
    return True


def _cut_short(screening: Screening) -> bool:
    return any(isinstance(each, Fault) and each.reason is FaultReason.DEADLINE for each in screening.findings)


def _rss_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / _MB


def main(
    data_folder: Annotated[Path, typer.Option("--data", help="Folder with mnist.npz.")],
    minutes: Annotated[float, typer.Option(help="How long.")] = 30.0,
    out: Annotated[Path, typer.Option(help="Where soak.json goes.")] = Path("benchmarks/results"),
    seed: Annotated[int, typer.Option(help="Of arrivals and cancellations.")] = 0,
) -> None:
    """Soak the engine, and say whether it held."""
    torch.set_num_threads(1)
    mnist = data.load_mnist(data_folder, "test", 1600)
    lenet = subject("LeNet-5", models.lenet5(), models.LENET5_SHAPE, mnist, 400, epsilon=0.2, seed=seed)
    gc.freeze()
    with engine(lenet, SPECS) as running, Progress() as tick:
        rate = _LOAD * capacity(running, lenet, 2.0)
        found = soak(running, lenet, seconds=60 * minutes, rate=rate, seed=seed, tick=tick)
    out.mkdir(parents=True, exist_ok=True)
    report = {"about": machine("benchmarks.engine.soak"), "rate": rate, **asdict(found), "holds": found.holds}
    (out / "soak.json").write_text(json.dumps(report, indent=1) + "\n")
    typer.echo(json.dumps(report, indent=1))
    raise typer.Exit(0 if found.holds else 1)


if __name__ == "__main__":
    typer.run(main)
