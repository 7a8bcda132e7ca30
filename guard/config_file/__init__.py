"""Reads the policy file, and explains every mistake in it with its line and a remedy.

All mistakes are reported at once: those of YAML itself, those that validation finds, and those that only the files
and settings together show.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from guard.config import Settings, Upstream
from guard.config_file import checks, english
from guard.config_file.checks import MIN_SECRET_BYTES
from guard.config_file.document import Document, Mistake, PolicyUnusable, Unreadable
from guard.errors import ConfigError, GuardError

__all__ = [
    "MIN_SECRET_BYTES",
    "Mistake",
    "PolicyUnusable",
    "explain",
    "json_schema",
    "load_settings",
    "load_upstream",
    "locate",
    "problems_of",
    "salvage",
]

_Section = TypeVar("_Section", bound=BaseModel)

_LAYERS = 4
"""As deep as settings are nested: a part that is removed may be missed in the one around it."""


def load_settings(path: Path) -> Settings:
    """Read settings from a YAML file. Relative paths in it are relative to the file, and absolute in the result.

    Raises:
        PolicyUnusable: the file has mistakes; the message has a line `file:line: problem; remedy` for each.
    """
    settings, mistakes = _read(path)
    if settings is None or mistakes:
        raise PolicyUnusable(problems_of(mistakes))
    return _resolved(settings, path)


def load_upstream(path: Path) -> Upstream:
    """Read of a policy how the guarded server is reached. What else is in it need not be right yet.

    Raises:
        PolicyUnusable: the file, or its section `upstream`, has mistakes.
    """
    mistakes = [each for each in explain(path) if each.where.partition(".")[0] in {"", "upstream"}]
    settings = salvage(path)
    if mistakes or settings is None:
        raise PolicyUnusable(problems_of(mistakes))
    return settings.upstream


def salvage(path: Path) -> Settings | None:
    """Settings without what validation finds wrong in them, to look at the rest; None if nothing is left."""
    try:
        data = copy.deepcopy(Document(path).data)
    except Unreadable:
        return None
    for _ in range(_LAYERS):
        try:
            return _resolved(Settings.model_validate(data), path)
        except ValidationError as invalid:
            for error in invalid.errors():
                _remove(data, error["loc"])
    return None


def _remove(data: Any, where: tuple[int | str, ...]) -> None:
    """Remove a key from nested data; where it is not there, being missed, what it is missed in."""
    *outer, key = where
    inside = data
    for part in outer:
        if not isinstance(inside, dict) or part not in inside:
            return
        inside = inside[part]
    if isinstance(inside, dict) and key in inside:
        del inside[key]
    elif outer:
        _remove(data, tuple(outer))


def _resolved(settings: Settings, path: Path) -> Settings:
    return _absolute(settings, path.parent.absolute())


def _absolute(section: _Section, base: Path) -> _Section:
    """A section whose paths are absolute, in the sections within it too."""

    def resolved(value: object) -> object:
        match value:
            case Path():
                return base / value
            case BaseModel():
                return _absolute(value, base)
            case dict():
                return {key: resolved(each) for key, each in value.items()}
        return value

    return section.model_copy(update={name: resolved(value) for name, value in section})


def explain(path: Path) -> list[Mistake]:
    """Every mistake in a policy file, by line; none if it can be used."""
    return _read(path)[1]


def problems_of(mistakes: Iterable[Mistake]) -> list[tuple[str, GuardError]]:
    """Mistakes as the errors that they are, with their places."""
    return [(mistake.place, ConfigError(f"{mistake.problem}; {mistake.remedy}")) for mistake in mistakes]


def locate(path: Path, where: tuple[str, ...]) -> str:
    """`file:line` of a key in a policy file that was read already."""
    return Document(path).mistake(where, "", "").place


def json_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of the policy file, for editors and pipelines."""
    schema = Settings.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "Guard policy"}


def _read(path: Path) -> tuple[Settings | None, list[Mistake]]:
    try:
        document = Document(path)
    except Unreadable as unreadable:
        return None, [unreadable.mistake]
    mistakes = [*document.duplicates, *checks.check(document)]
    settings = None
    try:
        settings = Settings.model_validate(document.data)
    except ValidationError as invalid:
        mistakes += [english.mistake(error, document) for error in invalid.errors()]
    return settings, sorted(mistakes, key=lambda mistake: (mistake.line, mistake.column))
