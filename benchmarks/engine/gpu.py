"""The engine on a GPU: first checks, then what it costs there. `python -m benchmarks.engine.gpu`, or `make bench-gpu`.

Without a GPU the checks run with the same code on the CPU, nothing is measured and nothing is written.
"""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import onnxruntime as ort
import torch
import typer
from rich.console import Console

from benchmarks.engine import gpu_checks, gpu_references
from benchmarks.engine.clock import Cost, Ratio, ratio, seconds
from benchmarks.engine.gpu_subject import GRAPHS, LARGE, SERVED, Kind, Subject, kinds, load_images, running, subjects
from benchmarks.engine.gpu_table import Figure, Missing, write
from benchmarks.engine.load import Traffic
from benchmarks.engine.subject import SIGMA, evaluations, screen
from benchmarks.engine.table import commit
from guard.model.backend import Backend, batches_for
from guard.profile import spec
from guard.screen.engine import Engine
from guard.values import Screening

_SPECS = (
    spec.SensitivitySpec(mutation=spec.Gaussian(sigma=SIGMA), p0=0.02, p1=0.2),
    spec.SmoothingSpec(sigma=SIGMA, radius=0.5 * SIGMA),
)
_LOAD = 0.4
_RHO = 1.1
BUDGET_S = 450.0
"""Of the eight minutes: what is not begun by then is left out, and the table says so."""
_NO_PROVIDER = (
    "ONNX Runtime has no CUDA provider here, so what `device: cuda` serves with was not measured: install "
    "onnxruntime-gpu in place of onnxruntime"
)


class Part(NamedTuple):
    """One thing to measure, of a replica."""

    replica: str
    what: str
    measure: Callable[[], Iterator[Figure]]


def parts(subject: Subject) -> Iterator[Part]:
    """Everything about one model: the served replica, the references beside it, then the other replicas."""
    found = list(kinds(subject))
    first = found[0]
    yield Part(first.how, "the engine", partial(_measured, subject, first))
    for reference in gpu_references.PARTS:
        yield Part(first.how, reference.__name__.replace("_", " "), partial(_beside, subject, first, reference))
    for kind in found[1:]:
        yield Part(kind.how, "the engine", partial(_measured, subject, kind))
    for one, other in pairwise(found):
        yield Part(f"{one.how} / {other.how}", "an evaluation", partial(_against, subject, one, other))


def measure(
    every: Iterable[Subject], say: Callable[[Figure | Missing], None], *, budget_s: float = BUDGET_S
) -> tuple[list[Figure], list[Missing]]:
    """All models, as far as the time allows."""
    figures: list[Figure] = []
    missing: list[Missing] = []
    end = time.monotonic() + budget_s
    for subject in every:
        planned = list(parts(subject))
        if planned[0].replica != SERVED:
            missing.append(Missing(subject.name, SERVED, _NO_PROVIDER))
            say(missing[-1])
        for part in planned:
            if time.monotonic() > end:
                missing.append(Missing(subject.name, part.replica, f"{part.what}: no time was left"))
                say(missing[-1])
                continue
            for figure in part.measure():
                figures.append(replace(figure, replica=part.replica))
                say(figures[-1])
    return figures, missing


def _measured(subject: Subject, kind: Kind) -> Iterator[Figure]:
    backend = kind.make()
    with running(subject, backend, *_SPECS) as engine:
        yield from _throughput(subject, kind, backend.preferred_batch, engine)
        yield from _latency(subject, engine)
    backend.close()


def _beside(
    subject: Subject, kind: Kind, reference: Callable[[Subject, Backend], Iterator[Figure]]
) -> Iterator[Figure]:
    backend = kind.make()
    yield from reference(subject, backend)
    backend.close()


def _against(subject: Subject, one: Kind, other: Kind) -> Iterator[Figure]:
    found = ratio(_evaluation(subject, one), _evaluation(subject, other), subject.size.rounds)
    yield Figure(subject.name, "an evaluation of the first, over the second", *found[:3], detail="in full batches")


def _evaluation(subject: Subject, kind: Kind) -> Cost:
    """What one evaluation costs in full batches, run as the engine has them run."""
    backend = kind.make()  # an engine has the batches of the other one
    batch = backend.preferred_batch
    (copies,) = batches_for(backend, batch)
    calls = max(2, len(subject.shown(20.0)) // batch)

    def cost() -> float:
        return seconds(lambda: [backend.logits(copies).cpu() for _ in range(calls)]) / (calls * batch)

    cost()
    return cost


def _throughput(subject: Subject, kind: Kind, batch: int, engine: Engine) -> Iterator[Figure]:
    images = subject.shown()
    per_request: list[float] = []
    per_evaluation: list[float] = []
    spent: list[float] = []

    def cost() -> float:
        done: list[Screening] = []
        elapsed = seconds(lambda: done.extend(screen(engine, images)))
        spent.append(evaluations(done) / len(done))
        per_request.append(elapsed / len(done))
        per_evaluation.append(elapsed / evaluations(done))
        return per_evaluation[-1]

    found = ratio(cost, _evaluation(subject, kind), subject.size.rounds)
    detail = f"bucket {batch}; {np.mean(spent):.1f} evaluations a request"
    target = _RHO if subject.name == LARGE and kind.how in {SERVED, GRAPHS} else None
    yield Figure(subject.name, "rho", *found[:3], target=target, better="at most", detail=detail)
    yield Figure(subject.name, "requests/s", *_rate(per_request)[:3])
    yield Figure(subject.name, "evaluations/s", *_rate(per_evaluation)[:3])


def _latency(subject: Subject, engine: Engine) -> Iterator[Figure]:
    images = subject.shown()
    rate = _LOAD * len(images) / seconds(lambda: screen(engine, images))
    traffic = Traffic(engine, images, rate, None)
    traffic.run(subject.size.load_s, np.random.default_rng(0))
    detail = f"{traffic.sent} requests, {rate:.0f} a second, {_LOAD:.0%} of capacity"
    for quantile in (0.5, 0.99):
        found = 1000 * float(np.quantile(traffic.latencies, quantile))
        yield Figure(subject.name, f"p{quantile * 100:.0f} latency, ms", found, found, found, detail=detail)


def _rate(costs: list[float]) -> Ratio:
    rates = sorted(1 / cost for cost in costs)
    return Ratio(rates[len(rates) // 2], rates[0], rates[-1])


def main(
    folder: Annotated[Path, typer.Option("--data", help="Folder with mnist.npz and cifar10-jpeg.zip, if at hand.")],
    out: Annotated[Path, typer.Option(help="Where gpu.json and gpu.md go.")] = Path("benchmarks/results"),
) -> None:
    """Check the engine on a GPU, measure it there, and write the table."""
    torch.set_num_threads(1)
    begun, console = time.monotonic(), Console()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for line in gpu_checks.run(device, load_images(folder)):
        console.print(f"checked: {line}", highlight=False)
    if device.type == "cpu":
        console.print("There is no GPU that torch can use: the checks ran on the CPU, and nothing was measured.")
        return
    about = {
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "gpu": torch.cuda.get_device_name(),
        "python": platform.python_version(),
        "torch": f"{torch.__version__}, CUDA {torch.version.cuda}",
        "onnxruntime": f"{ort.__version__}, {', '.join(ort.get_available_providers())}",
        "command": " ".join(["python", "-m", "benchmarks.engine.gpu", *sys.argv[1:]]),
    }
    left_s = BUDGET_S - (time.monotonic() - begun)
    figures, missing = measure(subjects(folder, device), lambda each: _say(console, each), budget_s=left_s)
    about["took"] = f"{time.monotonic() - begun:.0f} s"
    write(figures, missing, about, out)
    console.print(f"written to {out}/gpu.json and gpu.md after {about['took']}")


def _say(console: Console, each: Figure | Missing) -> None:
    said = f"not measured: {each.reason}" if isinstance(each, Missing) else f"{each.measure} {each.median:.4g}"
    console.print(f"{each.model}, {each.replica}: {said}", highlight=False)


if __name__ == "__main__":
    typer.run(main)
