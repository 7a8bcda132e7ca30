"""A policy file, read and loaded with all that it names, as `guard check-config` and a reload do."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from pydantic import BaseModel

from guard.app.models import LoadedModel, load_model
from guard.config import ModelPolicy, Settings
from guard.config_file import PolicyUnusable, explain, load_settings, locate, problems_of, salvage
from guard.environment import check_otel, check_redis
from guard.errors import GuardError

FREE: Final = frozenset({"models", "unlisted_models"})
"""The sections that may change while Guard runs."""

_VERSION_DIGITS = 12


def nothing_runs(_name: str, _policy: ModelPolicy) -> bool:
    """No model runs that a policy could go on with."""
    return False


def load_policy(
    path: Path, runs: Callable[[str, ModelPolicy], bool] = nothing_runs
) -> tuple[Settings, dict[str, LoadedModel]]:
    """Read a policy file and load the models that it names, but those that run as they are.

    Raises:
        PolicyUnusable: there are mistakes, in the file or in what it names; no model stays open.
    """
    try:
        settings: Settings | None = load_settings(path)
        mistakes = []
    except PolicyUnusable:
        mistakes = explain(path)
        if not mistakes:  # it was mended this moment
            raise
        settings = salvage(path)
    problems = problems_of(mistakes)
    if settings is None:
        raise PolicyUnusable(problems)
    told = {at for at, _ in problems}
    loaded: dict[str, LoadedModel] = {}
    problems += [(at, error) for at, error in _problems(path, settings, loaded, runs) if at not in told]
    if problems:
        for model in loaded.values():
            model.close()
        raise PolicyUnusable(problems)
    return settings, loaded


def _problems(
    path: Path, settings: Settings, loaded: dict[str, LoadedModel], runs: Callable[[str, ModelPolicy], bool]
) -> Iterator[tuple[str, GuardError]]:
    """What is wrong with the installation and the models, by `file:line`. Models are loaded on the way."""
    extras = (
        (settings.query_store.url, check_redis, ("query_store", "url")),
        (settings.tracing.address, check_otel, ("tracing", "address")),
    )
    for wanted, check, where in extras:
        if wanted is not None:
            try:
                check()
            except GuardError as exc:
                yield locate(path, where), exc
    for name, policy in settings.models.items():
        if runs(name, policy):
            continue
        model = load_model(settings, name)
        if isinstance(model, LoadedModel):
            loaded[name] = model
        else:
            for problem in model:
                yield locate(path, ("models", name, problem.setting)), problem.error


def fixed(before: BaseModel, after: BaseModel, where: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The settings that changed and can't while Guard runs."""
    for name in type(before).model_fields:
        old, new = getattr(before, name), getattr(after, name)
        if old == new or (not where and name in FREE):
            continue
        if isinstance(old, BaseModel) and isinstance(new, BaseModel):
            yield from fixed(old, new, (*where, name))
        else:
            yield (*where, name)


def version_of(settings: Settings, contents: Mapping[str, str]) -> str:
    """What tells one policy from another: a hash of what it says of models, and of their profiles, by `contents`.

    It does not depend on where files are, nor on anything that can't change while Guard runs.
    """
    said = settings.model_dump(mode="json", include=set(FREE), exclude={"models": {"__all__": {"profile", "model"}}})
    text = json.dumps([said, dict(contents)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:_VERSION_DIGITS]
