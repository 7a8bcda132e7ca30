"""`guard demo`."""

# ruff: noqa: PLC0415 - see guard/cli/__init__.py

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from guard.cli.words import LARGEST_SEED, AsJson, print_json, progress


def demo(
    *,
    keep_running: Annotated[bool, typer.Option(help="Keep the servers up at the end.")] = False,
    folder: Annotated[Path, typer.Option("--dir", help="Where the model and its profile go.")] = Path("guard-demo"),
    seed: Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="Of splits, training and attacks.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Guard a small model, attack it, and show what was caught: a few minutes on two cores."""
    from guard.environment import check_onnxruntime

    check_onnxruntime()
    from guard.observe.logs import configure_logging
    from guard.output import make_folder

    signal.signal(signal.SIGTERM, _interrupt)
    make_folder(folder, "--dir")
    from guard.demo.run import Request, run  # this takes seconds

    configure_logging(json=False, level="error")
    request = Request(folder=folder, seed=seed, keep_running=keep_running)
    run(request, progress(as_json=as_json), print_json if as_json else None)


def _interrupt(_signum: int, _frame: object) -> NoReturn:
    """End like Ctrl-C, which stops the servers on its way out."""
    raise KeyboardInterrupt
