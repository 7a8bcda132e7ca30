"""`guard profile`."""

# ruff: noqa: PLC0415 - see guard/cli/__init__.py

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from guard.cli.words import out

profile_app = typer.Typer(help="Look at profiles.", no_args_is_help=True)


@profile_app.command()
def show(profile: Annotated[Path, typer.Argument(help="A folder written by `guard calibrate`.")]) -> None:
    """Print what a profile holds."""
    from guard.offline.show import print_profile
    from guard.profile import store

    print_profile(out, store.load(profile))
