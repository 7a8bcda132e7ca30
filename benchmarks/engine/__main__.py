"""Run the table: `python -m benchmarks.engine --data FOLDER`, or `make bench`."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from benchmarks.engine import certificates, detectors, load, testing
from benchmarks.engine.bench import SIZES, Bench
from benchmarks.engine.chart import draw
from benchmarks.engine.subject import Subject
from benchmarks.engine.subject import load as load_subjects
from benchmarks.engine.table import Row, machine, merged, write

_LOAD_S = 12.0


def main(
    data: Annotated[Path, typer.Option(help="Folder with mnist.npz and cifar10-jpeg.zip.")],
    out: Annotated[Path, typer.Option(help="Where engine.json, engine.md and engine.png go.")] = Path(
        "benchmarks/results"
    ),
    runs: Annotated[int, typer.Option(help="How often to measure it all.")] = 1,
    only: Annotated[list[int] | None, typer.Option(help="Rows to measure; nothing is written then.")] = None,
    seed: Annotated[int, typer.Option(help="Of the images, the noise of references and the arrivals.")] = 0,
) -> None:
    """Measure the screening engine beside every reference, and write the table."""
    torch.set_num_threads(1)
    console, about = Console(), machine("benchmarks.engine")  # before files change under a long run
    console.print("Loading models and images, and trying batch sizes")
    subjects = load_subjects(data, seed=seed)
    gc.freeze()
    measured: list[list[Row]] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        parts = [part for subject in subjects for part in _parts(subject, seed, set(only or range(1, 11)))]
        task = progress.add_task("measuring", total=runs * len(parts))
        for run in range(runs):
            measured.append([])
            for description, part in parts:
                progress.update(task, description=f"run {run + 1} of {runs}, {description}")
                for row in part():
                    measured[-1].append(row)
                    console.print(_line(row), highlight=False)
                progress.advance(task)
    rows = merged(measured)
    console.print(f"{sum(row.holds for row in rows)} of {len(rows)} hold")
    if only is None:
        write(rows, out, about)
        draw(rows, out / "engine.png")
        console.print(f"written to {out}/engine.json, .md and .png")


def _line(row: Row) -> str:
    mark = "[green]holds[/]" if row.holds else "[red]does not hold[/]"
    ceiling = "" if row.ceiling is None else f", about {row.ceiling:.3g} from evaluations alone"
    return (
        f"{row.number:>2}  {row.compare}, {row.model}: {row.measured:.3g} ({row.low:.3g} to {row.high:.3g}), "
        f"target {row.sign} {row.target:g}{ceiling}: {mark}\n      {row.detail}"
    )


def _parts(subject: Subject, seed: int, only: set[int]) -> Iterator[tuple[str, Callable[[], Iterator[Row]]]]:
    bench = Bench(subject, SIZES[subject.name], seed)
    measures: list[tuple[tuple[int, ...], str, Callable[[Bench], Iterator[Row]]]] = [
        ((1,), "rho", testing.rho),
        ((2, 3), "mutation testing", testing.sprt),
        ((4,), "fixed-n certificates", certificates.fixed),
        ((5,), "sequential certificates", certificates.sequential),
        ((6,), "confidence sequences", certificates.confidence_sequence),
        ((7,), "squeezing", detectors.squeezing),
        ((7,), "a detector network", detectors.network),
        ((8,), "shared stream", testing.shared_stream),
        ((9,), "Poisson load", lambda bench: load.poisson(bench.subject, _LOAD_S, seed)),
        ((9,), "echo", lambda bench: load.echo(bench.subject, _LOAD_S, seed)),
        ((10,), "overload", lambda bench: load.overload(bench.subject, _LOAD_S, seed)),
    ]
    for numbers, name, measure in measures:
        if only.intersection(numbers):
            yield f"{subject.name}: {name}", partial(measure, bench)


if __name__ == "__main__":
    typer.run(main)
