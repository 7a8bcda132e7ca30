"""A long run at 80 % load with random cancellations: memory stays flat, and no slot is lost.

`python -m benchmarks.engine.soak --data FOLDER --minutes 30`, or `make soak`.
"""

from __future__ import annotations

import gc
import json
import random
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.progress import Progress

from benchmarks import data, models
from benchmarks.engine.load import SPECS, capacity
from benchmarks.engine.soak_traffic import Cancelling, Plan, Screens
from benchmarks.engine.subject import engine, subject
from benchmarks.engine.table import machine
from guard.values import Float32Array

_LOAD = 0.8
_READINGS, _READING_S = 5, 1.0
_LEAST_CANCELLED = 0.18
_WARM_UP = 0.2
_MB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Soak:
    """What came of it. `slope_mb_per_h` is of resident memory after the warm-up, by least squares."""

    minutes: float
    sent: int
    screened: int
    cancelled: int
    cancellations: int
    expired: int
    refused: int
    live_at_end: int
    queued_at_end: int
    rss_mb: tuple[float, float, float]
    slope_mb_per_h: float
    flat_mb_per_h: float
    typical_ms: float

    @property
    def lost(self) -> int:
        """Requests of which nothing was heard."""
        return self.sent - self.screened - self.cancelled - self.expired - self.refused

    @property
    def cancelled_share(self) -> float:
        """Of all requests."""
        return self.cancelled / self.sent

    @property
    def holds(self) -> bool:
        """Whether nothing was lost, memory was flat, and there were as many cancellations as there should be."""
        nothing_left = self.lost == self.live_at_end == self.queued_at_end == 0
        return nothing_left and self.slope_mb_per_h < self.flat_mb_per_h and self.cancelled_share >= _LEAST_CANCELLED


def soak(running: Screens, images: Float32Array, plan: Plan, *, tick: Progress | None = None) -> Soak:
    """Send Poisson traffic, cancel a fifth of it while it waits or is screened, and watch the memory."""
    rng = random.Random(plan.seed)  # noqa: S311 - arrivals, no secrets
    task = tick.add_task("soaking", total=plan.seconds) if tick else None
    traffic = Cancelling(running, images, plan, rng)
    rss: list[tuple[float, float]] = []
    begun = due = time.perf_counter()
    while (now := time.perf_counter()) - begun < plan.seconds:
        if not rss or now - begun - rss[-1][0] >= plan.sample_s:
            traffic.count()
            rss.append((now - begun, _rss_mb()))
            if tick and task is not None:
                tick.update(task, completed=now - begun)
        traffic.cancel(now)
        if now >= due:
            traffic.send()
            due += rng.expovariate(plan.rate)
        next_s = min(due, traffic.due[0][0]) if traffic.due else due
        time.sleep(max(0.0, next_s - time.perf_counter()))
    traffic.finish()
    _settle(running, plan.patience_s)
    warm = rss[int(len(rss) * _WARM_UP) :]
    sizes = [mb for _, mb in warm]
    return Soak(
        minutes=plan.seconds / 60,
        sent=traffic.sent,
        refused=traffic.refused,
        cancellations=traffic.cancellations,
        live_at_end=running.live,
        queued_at_end=running.depth,
        rss_mb=(sizes[0], max(sizes), sizes[-1]),
        slope_mb_per_h=float(np.polyfit([t for t, _ in warm], sizes, 1)[0]) * 3600,
        flat_mb_per_h=plan.flat_mb_per_h,
        typical_ms=traffic.typical_s * 1000,
        **traffic.counts,
    )


def _settle(running: Screens, patience_s: float) -> None:
    """Wait for the engine to let go of cancelled requests, which it does when its thread comes by."""
    until = time.perf_counter() + patience_s
    while (running.live or running.depth) and time.perf_counter() < until:
        time.sleep(0.01)


def _rss_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / _MB


def report(about: dict[str, str], capacities: list[float], plan: Plan, found: Soak) -> dict[str, object]:
    """What soak.json holds."""
    shares = {"lost": found.lost, "cancelled_share": found.cancelled_share, "holds": found.holds}
    return {"about": about, "capacities": capacities, **asdict(plan), **asdict(found), **shares}


def main(
    data_folder: Annotated[Path, typer.Option("--data", help="Folder with mnist.npz.")],
    minutes: Annotated[float, typer.Option(help="How long.")] = 30.0,
    out: Annotated[Path, typer.Option(help="Where soak.json goes.")] = Path("benchmarks/results"),
    seed: Annotated[int, typer.Option(help="Of arrivals and cancellations.")] = 0,
) -> None:
    """Soak the engine, and say whether it held."""
    torch.set_num_threads(1)
    about = machine("benchmarks.engine.soak")  # before files change under a long run
    mnist = data.load_mnist(data_folder, "test", 1600)
    lenet = subject("LeNet-5", models.lenet5(), models.LENET5_SHAPE, mnist, 400, epsilon=0.2, seed=seed)
    gc.freeze()
    with engine(lenet, SPECS) as running, Progress() as tick:
        capacities = [capacity(running, lenet, _READING_S) for _ in range(_READINGS)]
        plan = Plan(60 * minutes, _LOAD * statistics.median(capacities), seed)
        found = soak(running, lenet.images, plan, tick=tick)
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(report(about, capacities, plan, found), indent=1)
    (out / "soak.json").write_text(text + "\n")
    typer.echo(text)
    raise typer.Exit(0 if found.holds else 1)


if __name__ == "__main__":
    typer.run(main)
