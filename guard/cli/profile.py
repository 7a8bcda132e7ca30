"""`guard profile`."""

# ruff: noqa: PLC0415 - see guard/cli/__init__.py

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from guard.cli.words import AsJson, out, print_json

profile_app = typer.Typer(help="Look at profiles.", no_args_is_help=True)


@profile_app.command()
def show(
    profile: Annotated[Path, typer.Argument(help="A folder written by `guard calibrate`.")],
    *,
    as_json: AsJson = False,
) -> None:
    """Print what a profile holds."""
    from guard.profile import store

    held = store.load(profile)
    from guard.offline.show import facts, print_profile

    if as_json:
        print_json({"folder": str(profile), **facts(held)})
    else:
        print_profile(out, held)
