"""The command line: a module for each command.

Each command imports what it needs when it runs, so that `guard --help` and mistakes answer at once.
"""

from __future__ import annotations

import errno
import os
import sys
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from guard import __version__
from guard.cli.audit import audit_app
from guard.cli.calibrate import calibrate
from guard.cli.check_config import check_config
from guard.cli.demo import demo
from guard.cli.doctor import doctor
from guard.cli.evaluate import evaluate
from guard.cli.profile import profile_app
from guard.cli.serve import serve
from guard.cli.words import EPILOG, out
from guard.errors import DataError, GuardError

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

app = typer.Typer(
    help="Guard screens inference traffic for adversarial inputs.",
    epilog=EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command()(demo)
app.command()(calibrate)
app.command()(evaluate)
app.command()(check_config)
app.command(context_settings={"allow_extra_args": True})(serve)  # to say what to write in place of them
app.command()(doctor)
app.add_typer(profile_app, name="profile")
app.add_typer(audit_app, name="audit")


def main() -> NoReturn:
    """Run the command line; errors of Guard's own become one message and an exit code."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # what gRPC prints is no log line, and its errors are reported
    try:
        app(standalone_mode=True)
    except GuardError as exc:
        _end(exc)
    except OSError as exc:
        if exc.errno not in _NO_ROOM:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python writes the rest there when it ends
        _end(DataError(f"what a command prints or writes has no room ({exc.strerror}); make some where it goes"))
    sys.exit(0)


def _end(error: GuardError) -> NoReturn:
    Console(stderr=True, markup=False, emoji=False, highlight=False).print(
        f"guard: {error}", style="red", soft_wrap=True
    )
    sys.exit(error.exit_code)


def _version(*, show: bool) -> None:
    if show:
        out.print(f"guard {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    *,
    version: Annotated[
        bool,
        typer.Option("--version", callback=lambda show: _version(show=show), is_eager=True, help="Say which this is."),
    ] = False,
) -> None:
    """Guard screens inference traffic for adversarial inputs."""
