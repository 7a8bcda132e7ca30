"""Run it: `python -m benchmarks.wire`, or `make bench-wire`."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from benchmarks.engine.table import Row, machine
from benchmarks.wire import parts, table
from benchmarks.wire.measure import Cell, load
from benchmarks.wire.payloads import PAYLOADS, Payload
from benchmarks.wire.setting import Setting, setting

CONCURRENCIES = (1, 8, 32)
_QUICK_REQUESTS = 8


def main(
    out: Annotated[Path, typer.Option(help="Where wire.json, wire.md and wire.png go.")] = Path("benchmarks/results"),
    rounds: Annotated[int, typer.Option(min=1, help="How often each cell is measured.")] = 3,
    payload: Annotated[list[str] | None, typer.Option(help="Only these, such as '3 KB'.")] = None,
    at_once: Annotated[list[int] | None, typer.Option(min=1, help="Only so many requests at a time.")] = None,
    *,
    quick: Annotated[bool, typer.Option("--quick", help="A few small requests, to see that it works.")] = False,
) -> None:
    """Measure Guard and other proxies in front of a real Triton, and write the table."""
    torch.set_num_threads(1)
    console, about = Console(), machine("benchmarks.wire") | parts.versions()
    payloads = [one for one in PAYLOADS if one.name in (payload or [each.name for each in PAYLOADS])]
    payloads, rounds, at_once = (payloads[:1], 1, at_once or [1]) if quick else (payloads, rounds, at_once)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as held:
        console.print("Making models and profiles, and starting Triton and the proxies")
        made = held.enter_context(setting(payloads, Path(folder)))
        for reason in made.left_out:
            console.print(f"left out: {reason}")
        plan = list(itertools.product(range(rounds), payloads, at_once or CONCURRENCIES))
        cells = list(_cells(made, plan, _QUICK_REQUESTS if quick else None, console))
    for row in table.rows(cells):
        console.print(_line(row), highlight=False)
    for cell in cells:
        if cell.failed:
            console.print(f"{cell.variant}, {cell.payload}: {cell.failed} failed, as {cell.problem}", markup=False)
    table.write(cells, out, about | {f"left out {i}": why for i, why in enumerate(made.left_out, 1)})
    console.print(f"written to {out}/wire.json, .md and .png")


def _cells(
    made: Setting, plan: Sequence[tuple[int, Payload, int]], most: int | None, console: Console
) -> Iterator[Cell]:
    """Measure each cell of the plan: round, payload, how many at once. Variants take turns at being first."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with load() as sends, Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        task = progress.add_task("", total=len(plan) * len(made.variants))
        for turn, (number, payload, concurrency) in enumerate(plan):
            first = turn % len(made.variants)
            for variant in (*made.variants[first:], *made.variants[:first]):
                where = f"round {number + 1}, {payload.name}, {concurrency} at once: {variant.name}"
                progress.update(task, description=where)
                body = made.bodies[payload.name, variant.protocol]
                requests = max(min(payload.requests, most or payload.requests), concurrency)
                cell = sends.run(variant, body, requests, concurrency, of=(number, payload.name))
                if cell.failed and variant.name == table.DIRECT:
                    console.print(f"Triton itself failed, as {cell.problem}: nothing is written, run it again")
                    raise typer.Exit(1)
                yield cell
                progress.advance(task)


def _line(row: Row) -> str:
    mark = "[green]holds[/]" if row.holds else "[red]does not hold[/]"
    measured = f"{row.measured:.3g} ({row.low:.3g} to {row.high:.3g})"
    return f"{row.number}  {row.compare}, {row.model}: {measured}, target {row.sign} {row.target:g}: {mark}"


if __name__ == "__main__":
    typer.run(main)
