"""`guard check-config`."""

# ruff: noqa: PLC0415 - see guard/cli/__init__.py

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from guard.cli.words import AsJson, NoConfig, out, print_json, summary
from guard.config import Settings
from guard.errors import ConfigError

if TYPE_CHECKING:
    from guard.app.models import LoadedModel


def check_config(
    *,
    policy: Annotated[Path | None, typer.Argument(help="The policy file.")] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of policy files instead.")] = False,
    as_json: AsJson = False,
    _config: NoConfig = None,
) -> None:
    """Check a policy file, and load its profiles and models: every mistake, with its line and what to do."""
    from guard.config_file import PolicyUnusable, json_schema
    from guard.environment import check_onnxruntime

    if schema:
        print_json(json_schema())
        return
    if policy is None:
        raise ConfigError("name the policy file: guard check-config policy.yaml")

    check_onnxruntime()
    try:
        settings, models = _loaded(policy)
    except PolicyUnusable as exc:
        if not as_json:
            raise
        print_json({"policy": str(policy), "mistakes": exc.mistakes})
        raise typer.Exit(exc.exit_code) from exc
    for model in models.values():
        model.close()
    if as_json:
        print_json({"policy": str(policy), "mistakes": [], "settings": settings.model_dump(mode="json")})
    else:
        out.print(f"{policy} is fine: {summary(settings)}.", soft_wrap=True)


def _loaded(policy: Path) -> tuple[Settings, dict[str, LoadedModel]]:
    """The settings and their models. Where there is no model to load, mistakes are told before imports of seconds."""
    from guard.config_file import load_settings, salvage

    readable = salvage(policy)
    if readable is None or not readable.models:
        load_settings(policy)
    from guard.app.policy import load_policy

    return load_policy(policy)
