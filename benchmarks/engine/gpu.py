"""The engine on a GPU: first checks, then what it costs there. `python -m benchmarks.engine.gpu`, or `make bench-gpu`.

Without a GPU the checks run with the same code on the CPU, nothing is measured and nothing is written.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console

from benchmarks.engine import gpu_checks
from benchmarks.engine.clock import Ratio, ratio, seconds
from benchmarks.engine.gpu_subject import LARGE, Subject, in_half, load_images, subjects
from benchmarks.engine.gpu_table import Figure, write
from benchmarks.engine.load import Traffic
from benchmarks.engine.subject import SIGMA, evaluations, screen
from benchmarks.references import cohen, mutation_testing
from guard.model.torch import TorchBackend
from guard.profile import spec
from guard.screen.build import build_detectors
from guard.screen.engine import Engine
from guard.screen.trial import MODEL
from guard.values import Float32Array, Screening

_GAUSSIAN = spec.Gaussian(sigma=SIGMA)
_SPECS = (
    spec.SensitivitySpec(mutation=_GAUSSIAN, p0=0.02, p1=0.2),
    spec.SmoothingSpec(sigma=SIGMA, radius=0.5 * SIGMA),
)
_TEST = mutation_testing.Sprt(theta=0.1, indifference=0.5)
_CAP = 500
_N = 1000
_COHEN_BATCH = 250
"""Less than the authors' 1000, for ResNet-50 on 224x224 pixels; a GPU is full with it."""
_LIVE = 256
_LOAD = 0.4
_LOAD_S = 10.0
_ROUNDS = 5


@contextmanager
def running(subject: Subject, *specs: spec.DetectorSpec) -> Iterator[Engine]:
    """An engine with live items enough to fill the largest batch."""
    engine = Engine(
        detectors=build_detectors(specs),
        backends={MODEL: subject.backend},
        secret=b"benchmark",
        max_queued_items=4096,
        max_live_items=_LIVE,
    )
    engine.start()
    try:
        screen(engine, subject.images[:32])
        yield engine
    finally:
        engine.stop()


def measure(subject: Subject) -> Iterator[Figure]:
    """Everything about one model."""
    with running(subject, *_SPECS) as engine:
        yield from _throughput(subject, engine)
        yield from _latency(subject, engine)
    yield from _one_at_a_time(subject)
    yield from _fixed(subject)
    yield from _half(subject)


def _half(subject: Subject) -> Iterator[Figure]:
    """The same model in fp16."""
    name, halved = subject.backend.info.name, in_half(subject)
    with running(halved, *_SPECS) as engine:
        yield from _throughput(halved, engine)
    found = ratio(_evaluation(subject), _evaluation(halved), _ROUNDS)
    yield Figure(name, "an evaluation in fp32, over fp16", *found[:3], detail="at the best bucket of each")


def _evaluation(subject: Subject) -> Callable[[], float]:
    """What one evaluation costs in full batches, run as the engine has them run."""
    batch = subject.backend.preferred_batch
    backend = TorchBackend(subject.module, subject.backend.info, batch=batch)  # an engine has the other's batches
    (copies,) = backend.lend(batch, 1)
    calls = max(10, int(subject.requests * 20 / batch))

    def cost() -> float:
        return seconds(lambda: [backend.logits(copies).cpu() for _ in range(calls)]) / (calls * batch)

    cost()
    return cost


def _throughput(subject: Subject, engine: Engine) -> Iterator[Figure]:
    backend, images = subject.backend, _repeated(subject.images, subject.requests)
    name, batch = backend.info.name, backend.preferred_batch
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

    rho = ratio(cost, _evaluation(subject), _ROUNDS)
    detail = f"bucket {batch}; {np.mean(spent):.1f} evaluations a request"
    yield Figure(name, "rho", *rho[:3], 1.1 if name == LARGE else None, "at most", detail)
    yield Figure(name, "requests/s", *_rate(per_request)[:3])
    yield Figure(name, "evaluations/s", *_rate(per_evaluation)[:3])


def _latency(subject: Subject, engine: Engine) -> Iterator[Figure]:
    images = _repeated(subject.images, subject.requests)
    rate = _LOAD * len(images) / seconds(lambda: screen(engine, images))
    traffic = Traffic(engine, images, rate, None)
    traffic.run(_LOAD_S, np.random.default_rng(0))
    detail = f"{traffic.sent} requests, {rate:.0f} a second, {_LOAD:.0%} of capacity"
    for quantile in (0.5, 0.99):
        found = 1000 * float(np.quantile(traffic.latencies, quantile))
        name = subject.backend.info.name
        yield Figure(name, f"p{quantile * 100:.0f} latency, ms", found, found, found, detail=detail)


def _one_at_a_time(subject: Subject) -> Iterator[Figure]:
    """The published test, one copy at a time on the same GPU, over the engine with the same error rates."""
    design = spec.SensitivitySpec(
        mutation=_GAUSSIAN, p0=_TEST.p0, p1=_TEST.p1, alpha=_TEST.alpha, beta=_TEST.beta, cap=_CAP
    )
    device = subject.backend.device
    generator = torch.Generator(device).manual_seed(0)
    chosen = list(subject.images[: subject.slow])
    with running(subject, design) as engine:
        for rule, target in ((mutation_testing.as_published, 50.0), (mutation_testing.wald_every_copy, None)):

            def reference(rule: Callable[..., mutation_testing.Decision] = rule) -> float:
                def work() -> None:
                    for image in chosen:
                        x = torch.tensor(image, device=device)
                        with torch.no_grad():
                            label = int(subject.module(x[None]).argmax())
                        rule(subject.module, x, label, _TEST, sigma=SIGMA, generator=generator, cap=_CAP)

                return seconds(work) / len(chosen)

            def ours() -> float:
                images = _repeated(np.stack(chosen), subject.requests)
                return seconds(lambda: screen(engine, images)) / len(images)

            found = ratio(reference, ours, 3)
            words = rule.__name__.replace("_", " ")
            detail = f"rate {_TEST.theta:g} +- {_TEST.indifference:.0%}, cap {_CAP}"
            yield Figure(
                subject.backend.info.name, f"one at a time, {words}, over Guard", *found[:3], target, detail=detail
            )


def _fixed(subject: Subject) -> Iterator[Figure]:
    """Certification at a fixed n, in batches, on the same GPU, over the engine at the same n and sequentially."""
    device = subject.backend.device
    generator = torch.Generator(device).manual_seed(0)
    chosen = list(subject.images[: subject.slow])

    def reference() -> float:
        def work() -> None:
            for image in chosen:
                x = torch.tensor(image, device=device)
                cohen.certify(subject.module, x, sigma=SIGMA, n=_N, generator=generator, batch=_COHEN_BATCH)

        return seconds(work) / len(chosen)

    for test in ("fixed", "sequential"):
        design = spec.SmoothingSpec(sigma=SIGMA, radius=SIGMA, alpha=cohen.ALPHA, cap=_N)
        if test == "fixed":
            design = design.model_copy(update={"test": test, "first_chunk": _N})
        with running(subject, design) as engine:
            images = _repeated(np.stack(chosen), max(len(chosen), subject.requests // 40))

            def ours(engine: Engine = engine, images: list[Float32Array] = images) -> float:
                return seconds(lambda: screen(engine, images)) / len(images)

            found = ratio(reference, ours, 3)
        name = subject.backend.info.name
        yield Figure(name, f"certified at sigma, fixed n = {_N}, over Guard's {test} test", *found[:3])


def _repeated(images: Float32Array, count: int) -> list[Float32Array]:
    return [images[i % len(images)] for i in range(count)]


def _rate(costs: list[float]) -> Ratio:
    rates = sorted(1 / cost for cost in costs)
    return Ratio(rates[len(rates) // 2], rates[0], rates[-1])


def main(
    folder: Annotated[Path, typer.Option("--data", help="Folder with mnist.npz and cifar10-jpeg.zip, if at hand.")],
    out: Annotated[Path, typer.Option(help="Where gpu.json and gpu.md go.")] = Path("benchmarks/results"),
) -> None:
    """Check the engine on a GPU, measure it there, and write the table."""
    torch.set_num_threads(1)
    console = Console()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for line in gpu_checks.run(device, load_images(folder)):
        console.print(f"checked: {line}", highlight=False)
    if device.type == "cpu":
        console.print("There is no GPU that torch can use: the checks ran on the CPU, and nothing was measured.")
        return
    figures: list[Figure] = []
    for subject in subjects(folder, device):
        for figure in measure(subject):
            figures.append(figure)
            console.print(f"{figure.model}: {figure.measure} {figure.median:.4g} {figure.detail}", highlight=False)
    about = {
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "gpu": torch.cuda.get_device_name(),
        "python": platform.python_version(),
        "torch": f"{torch.__version__}, CUDA {torch.version.cuda}",
        "command": " ".join(["python", "-m", "benchmarks.engine.gpu", *sys.argv[1:]]),
    }
    write(figures, about, out)
    console.print(f"written to {out}/gpu.json and gpu.md")


if __name__ == "__main__":
    typer.run(main)
