"""What the commands share: where they print, and how they name things."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Final, TypeAlias

import typer
from rich.console import Console

from guard.config import Settings
from guard.errors import ConfigError

out = Console(markup=False, emoji=False, highlight=False)
"""Standard output. Paths and names are shown as they are."""

LARGEST_SEED = 2**31 - 1

AsJson: TypeAlias = Annotated[
    bool, typer.Option("--json", help="For machines: the result as JSON; all else goes to standard error.")
]
"""What commands with a result take."""


def other_way(how: str, line: str) -> ConfigError:
    """What to type where a policy was named as another command takes it."""
    return ConfigError(f"name the policy {how} --config: guard {line}")


def _as_serve_takes_it(ctx: typer.Context, policy: Path | None) -> None:
    if policy is not None:
        raise other_way("without", f"{ctx.info_name} {policy}")


NoConfig: TypeAlias = Annotated[
    Path | None, typer.Option("--config", callback=_as_serve_takes_it, is_eager=True, hidden=True)
]
"""What commands with a policy as their argument take, to say so: only `guard serve` names it by an option."""

EXIT_CODES: Final = {
    0: "it went well",
    1: "anything else",
    2: "a mistake in what was typed, or in a policy",
    3: "the installation can't do what was asked",
    4: "samples or records can't be used, or results can't be written; an audit log was changed",
    5: "a profile can't be used: damaged, of another model, or too small for the rate",
    6: "the model can't be used; for `guard doctor`: something has to be mended",
    7: "the guarded server can't be reached",
    130: "Ctrl-C",
}
"""How commands end. Each class of guard/errors.py says its own."""

EPILOG = "Exit codes: " + "; ".join(f"{code} {meaning}" for code, meaning in EXIT_CODES.items()) + "."


def progress(*, as_json: bool) -> Console:
    """Where a command says how far it is, and what it found in words: standard output unless a machine reads that."""
    return Console(stderr=True, markup=False, emoji=False, highlight=False) if as_json else out


def print_json(result: Any) -> None:
    """Print a result for machines."""
    out.print_json(json.dumps(result))


def flag(parameter: str) -> str:
    """An option as it is typed: `--admin-address` for `admin_address`."""
    return f"--{parameter.replace('_', '-')}"


def summary(settings: Settings) -> str:
    """Settings in one sentence."""
    guarded = [
        f"{name} ({policy.mode} at {policy.false_positive_rate:g} false positives, unscreened: {policy.on_unscreened})"
        for name, policy in settings.models.items()
    ]
    what = f"guards {', '.join(guarded)}" if guarded else "guards no model"
    return f"upstream {settings.upstream.address}; {what}; other models: {settings.unlisted_models}"
