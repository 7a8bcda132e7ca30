"""Calibrate, attack and evaluate: `python -m benchmarks.detection mnist --data FOLDER`.

It does what an owner would: `guard calibrate` on clean samples, then `guard evaluate` on others. Work that was stopped
goes on where it was.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import cv2
import torch
import typer
from rich.console import Console

from benchmarks.detection import left_out as without
from benchmarks.detection.subjects import Name
from benchmarks.detection.table import markdown
from benchmarks.detection.workshop import PROFILE, WORK, Workshop
from guard.offline.options import Options

_RESULTS = Path("benchmarks/results")


def main(  # noqa: PLR0917 - options of a command line
    name: Annotated[Name, typer.Argument(help="The model and its data.")],
    data: Annotated[Path, typer.Option(help="Folder with mnist.npz and cifar10-jpeg.zip.")] = Path("data"),
    out: Annotated[Path, typer.Option(help="Where detection-NAME.json and .md go.")] = _RESULTS,
    work: Annotated[Path, typer.Option(help="Where the model, profiles, crafted images and reports go.")] = WORK,
    images: Annotated[int, typer.Option(help="Images that are attacked.")] = 200,
    seed: Annotated[int, typer.Option(help="Of splits, training, attacks and noise.")] = 0,
    attacks: Annotated[list[str] | None, typer.Option(help="An attack or one setting of it; all by default.")] = None,
    left_out: Annotated[bool, typer.Option("--left-out", help="Also without each family of attacks in turn.")] = False,  # noqa: FBT002 - an option
) -> None:
    """Measure what Guard catches, and write the table."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    workshop = Workshop(name, work / name.value, images, seed, Console())
    workshop.fill(data)
    workshop.calibrate(PROFILE, Options(seed=seed))
    file = out / f"detection-{name.value}"
    found = workshop.evaluate(PROFILE, "report", tuple(attacks or ()), quick=name is Name.DIGITS)
    file.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    file.with_suffix(".md").write_text(markdown(name, found), encoding="utf-8")
    if left_out:
        rows = list(without.measure(workshop, Options(seed=seed)))
        file = out / f"detection-{name.value}-left-out"
        file.with_suffix(".json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
        file.with_suffix(".md").write_text(without.markdown(name, rows, found), encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
