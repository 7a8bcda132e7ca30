"""`guard check-config`."""

# ruff: noqa: PLC0415 - see guard/cli/__init__.py

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from guard.cli.words import AsJson, out, print_json, summary
from guard.errors import ConfigError


def check_config(
    *,
    policy: Annotated[Path | None, typer.Argument(help="The policy file.")] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of policy files instead.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check a policy file, and load its profiles and models: every mistake, with its line and what to do."""
    from guard.config_file import json_schema
    from guard.environment import check_onnxruntime

    if schema:
        print_json(json_schema())
        return
    if policy is None:
        raise ConfigError("name the policy file: guard check-config policy.yaml")
    from guard.app.policy import load_policy

    check_onnxruntime()
    try:
        settings, models = load_policy(policy)
    except ConfigError as exc:
        if not as_json:
            raise
        print_json({"policy": str(policy), "mistakes": str(exc).splitlines()})
        raise typer.Exit(exc.exit_code) from exc
    for model in models.values():
        model.close()
    if as_json:
        print_json({"policy": str(policy), "mistakes": [], "settings": settings.model_dump(mode="json")})
    else:
        out.print(f"{policy} is fine: {summary(settings)}.", soft_wrap=True)
