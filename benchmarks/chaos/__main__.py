"""Run it: `python -m benchmarks.chaos`, or `make chaos`."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

from benchmarks.chaos.house import House, house
from benchmarks.chaos.rows import ELSEWHERE, ROWS
from benchmarks.chaos.table import Check, Result, Row, write
from benchmarks.engine.table import commit, machine

_NAMES = ", ".join(row.name for row in ROWS)


def main(
    only: Annotated[list[str] | None, typer.Option("--only", help=f"Only these rows: {_NAMES}.")] = None,
    out: Annotated[Path, typer.Option(help="Where chaos.json and chaos.md go.")] = Path("benchmarks/results"),
    scale: Annotated[float, typer.Option(min=0.001, help="Of the long amounts: 0.1 runs each row a tenth.")] = 1.0,
    *,
    quick: Annotated[bool, typer.Option("--quick", help="The short form of each row, as in the tests.")] = False,
) -> None:
    """Try what Guard bears, row by row, and write down what came of it. Other rows keep their last figures."""
    unknown = set(only or []) - {row.name for row in ROWS}
    if unknown:
        raise typer.BadParameter(
            f"there is no row {', '.join(sorted(unknown))}; there are {_NAMES}", param_hint="--only"
        )
    torch.set_num_threads(1)
    console, about = Console(), machine("benchmarks.chaos")
    rows = [row for row in ROWS if row.name in (only or [each.name for each in ROWS])]
    console.print("Making models and profiles, and starting Triton")
    held = True
    with tempfile.TemporaryDirectory() as folder, house(Path(folder)) as made:
        for number, row in enumerate(rows, 1):
            amount = row.short if quick else row.long * scale
            console.print(f"{number} of {len(rows)}: {row.fault} ({amount:g} {row.unit})")
            result = tried(row, made, amount)
            for check in result.checks:
                console.print(f"  {'[green]holds[/]' if check.holds else '[red]missed[/]'}  {check}", highlight=False)
            if result.error:
                console.print(f"  [red]failed[/]  {result.error}", markup=True, highlight=False)
            write(ROWS, ELSEWHERE, {row.name: result}, about, out)
            held = held and result.held
    console.print(f"written to {out}/chaos.json and chaos.md")
    raise typer.Exit(0 if held else 1)


def tried(row: Row, made: House, amount: float) -> Result:
    """Run a row. What keeps it from its end is part of the result: other rows are run all the same."""
    made.triton.ensure_running()
    began_s, checks, error = time.perf_counter(), list[Check](), ""
    try:
        checks = asyncio.run(row.run(made, amount))
    except Exception as exc:  # noqa: BLE001 - as said
        error = f"{type(exc).__name__}: {exc}"
    seconds = round(time.perf_counter() - began_s, 1)
    now, load = datetime.now(UTC).isoformat(timespec="minutes"), round(os.getloadavg()[0], 1)
    return Result(row.name, amount, seconds, tuple(checks), now, commit(), load, error)


if __name__ == "__main__":
    typer.run(main)
