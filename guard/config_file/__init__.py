"""Reads the policy file, and explains every mistake in it with its line and a remedy.

All mistakes are reported at once: those of YAML itself, those that validation finds, and those that only the files
and settings together show.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from guard.config import Settings
from guard.config_file import checks, english
from guard.config_file.checks import MIN_SECRET_BYTES
from guard.config_file.document import Document, Mistake, Unreadable
from guard.errors import ConfigError

__all__ = ["MIN_SECRET_BYTES", "Mistake", "explain", "json_schema", "load_settings", "locate"]


def load_settings(path: Path) -> Settings:
    """Read settings from a YAML file. Relative paths in it are relative to the file, and absolute in the result.

    Raises:
        ConfigError: the file has mistakes; the message has a line `file:line: problem; remedy` for each.
    """
    settings, mistakes = _read(path)
    if settings is None or mistakes:
        raise ConfigError("\n".join(str(mistake) for mistake in mistakes))
    base = path.parent.absolute()
    models = {
        name: policy.model_copy(
            update={"profile": base / policy.profile, "model": policy.model and base / policy.model}
        )
        for name, policy in settings.models.items()
    }
    secret_file = settings.noise_secret_file and base / settings.noise_secret_file
    return settings.model_copy(update={"models": models, "noise_secret_file": secret_file})


def explain(path: Path) -> list[Mistake]:
    """Every mistake in a policy file, by line; none if it can be used."""
    return _read(path)[1]


def locate(path: Path, where: tuple[str, ...]) -> str:
    """`file:line` of a key in a policy file that was read already."""
    mistake = Document(path).mistake(where, "", "")
    return f"{mistake.path}:{mistake.line}"


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
