"""`guard evaluate`."""

# ruff: noqa: PLC0415 - see guard/cli/__init__.py

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from guard.cli.words import LARGEST_SEED, AsJson, print_json, progress


def evaluate(
    *,
    profile: Annotated[Path, typer.Argument(help="A folder written by `guard calibrate`.")],
    model: Annotated[Path, typer.Option(help="The model, the ONNX file that the profile was calibrated with.")],
    data: Annotated[Path, typer.Option(help="Clean samples that the profile has not seen, as for `guard calibrate`.")],
    out_folder: Annotated[
        Path, typer.Option("--out", help="Where the report goes, and what a later run goes on with.")
    ],
    labels: Annotated[
        Path | None, typer.Option(help="True labels: an npy or an npz. By default those in the npz of --data.")
    ] = None,
    attacks: Annotated[
        list[str] | None, typer.Option(help='An attack, such as PGD, or one setting, "C&W, L2"; all by default.')
    ] = None,
    rate: Annotated[
        list[float] | None, typer.Option(help="A false-positive rate to measure at; 0.05 and 0.01 by default.")
    ] = None,
    images: Annotated[
        int | None, typer.Option(min=1, help="How many to attack, 200 by default; slow attacks take fewer.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A few attacks on 40 images, for a first look.")] = False,
    seed: Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="Of the choice of samples and of attacks.")] = 0,
    ray: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="A Ray cluster that screens; local: all cores of this machine."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Attack a guarded model, measure what is caught, and write a report."""
    from guard.environment import check_onnxruntime
    from guard.observe.logs import configure_logging
    from guard.offline.data import look_for
    from guard.offline.evaluate.request import Request, guarded

    check_onnxruntime()
    configure_logging(json=False, level="warning")
    request = Request(
        profile=profile,
        model=model,
        data=data,
        out=out_folder,
        labels=labels,
        attacks=tuple(attacks or ()),
        rates=tuple(rate or ()),
        images=images,
        quick=quick,
        seed=seed,
        ray=ray,
        command=shlex.join(["guard", *sys.argv[1:]]),
    )
    guarded(request)  # with the samples looked for before the imports, which take seconds
    look_for(data)
    from guard.offline.evaluate.command import evaluate_to

    evaluation = evaluate_to(request, progress(as_json=as_json))
    if as_json:
        print_json(evaluation.as_json())
