"""`guard check-config`."""

# ruff: noqa: PLC0415 - see guard/cli/__init__.py

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from guard.cli.words import out, summary
from guard.config import Settings
from guard.errors import ConfigError, GuardError


def check_config(
    *,
    policy: Annotated[Path | None, typer.Argument(help="The policy file.")] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of policy files instead.")] = False,
) -> None:
    """Check a policy file, and load its profiles and models: every mistake, with its line and what to do."""
    from guard.config_file import explain, json_schema, salvage
    from guard.environment import check_onnxruntime

    if schema:
        out.print_json(json.dumps(json_schema()))
        return
    if policy is None:
        raise ConfigError("name the policy file: guard check-config policy.yaml")
    check_onnxruntime()
    mistakes = explain(policy)
    settings = salvage(policy)
    told = {f"{mistake.path}:{mistake.line}" for mistake in mistakes}
    problems = [str(mistake) for mistake in mistakes]
    problems += [f"{where}: {error}" for where, error in _problems(policy, settings) if where not in told]
    if problems or settings is None:
        raise ConfigError("\n".join(problems))
    out.print(f"{policy} is fine: {summary(settings)}.", soft_wrap=True)


def _problems(policy: Path, settings: Settings | None) -> Iterator[tuple[str, GuardError]]:
    """What is wrong with the installation and the models, by `file:line`.

    Each model is loaded as `guard serve` would, and closed again.
    """
    from guard.app.models import LoadedModel, load_model
    from guard.config_file import locate
    from guard.environment import check_redis

    if settings is None:
        return
    if settings.query_store.url is not None:
        try:
            check_redis()
        except GuardError as exc:
            yield locate(policy, ("query_store", "url")), exc
    for name in settings.models:
        model = load_model(settings, name)
        if isinstance(model, LoadedModel):
            model.close()
        else:
            for problem in model:
                yield locate(policy, ("models", name, problem.setting)), problem.error
