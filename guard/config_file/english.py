"""What pydantic found wrong, in plain English, with what to write instead."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from enum import Enum
from types import UnionType
from typing import Annotated, Any, cast, get_args, get_origin

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from guard.config import Settings
from guard.config_file.document import Document, KeyPath, Mistake, dotted

_EXPECTED = {
    "int_type": "a whole number",
    "float_type": "a number",
    "string_type": "text",
    "path_type": "a path",
    "model_type": "a mapping of keys to values",
    "dict_type": "a mapping of names to policies",
}
_OUT_OF_RANGE = frozenset({"greater_than", "greater_than_equal", "less_than", "less_than_equal", "finite_number"})


def of_option(error: ErrorDetails, option: str) -> str:
    """Say what one validation error means for the person who typed an option of the command line."""
    typed = f"{error['input']:g}" if isinstance(error["input"], float) else str(error["input"])
    what, remedy = _explain_value(error, _field_at([str(part) for part in error["loc"]]), f"`{typed}`")
    return f"{option} is `{typed}`{what}; {remedy}"


def mistake(error: ErrorDetails, document: Document) -> Mistake:
    """Say what one validation error means for the person who wrote the file."""
    where = [str(part) for part in error["loc"]]
    problem, remedy = _explain(error, where, document)
    return document.mistake(where, problem, remedy)


def _explain(error: ErrorDetails, where: list[str], document: Document) -> tuple[str, str]:
    name, kind = dotted(where), error["type"]
    if kind == "extra_forbidden":
        return f"{name} is not a setting", _closest(where[-1], _section_at(where[:-1]).model_fields)
    field = _field_at(where)
    if kind == "missing":
        return f"{name} is missing", f"add it: {field.description}"
    if error["input"] is None:
        return f"{name} has no value", f"give it one ({field.description}), or remove the key"
    if kind == "secret":  # which is not repeated
        return f"{name} {error['ctx']['why']}", f"write {field.description}"
    text = document.text(where)
    what, remedy = _explain_value(error, field, text)
    return f"{name} is {text}{what}", remedy


def _explain_value(error: ErrorDetails, field: FieldInfo, text: str) -> tuple[str, str]:
    """What follows "the setting is `text`", and the remedy."""
    kind = error["type"]
    if kind == "enum":
        return ", which is none of its values", _closest(
            text.strip("`"), [str(member.value) for member in _enum(field)]
        )
    if kind in _EXPECTED:
        return f", not {_EXPECTED[kind]}", f"write {_EXPECTED[kind]}{_for_example(field)}"
    if kind in _OUT_OF_RANGE:
        return ", which is out of range", f"write a number {_bounds(field)}: {field.description}"
    why = error["ctx"]["why"] if kind == "address" else error["msg"]
    return f": {why}", f"write {field.description}{_for_example(field)}"


def _closest(word: str, allowed: Iterable[str]) -> str:
    choices = list(allowed)
    close = difflib.get_close_matches(word, choices, n=1)
    guess = f"did you mean {close[0]}? " if close else ""
    return f"{guess}write one of: {', '.join(choices)}"


def _section_at(where: KeyPath) -> type[BaseModel]:
    """The class of the section at a key that exists: `models.digits` is a ModelPolicy."""
    section: Any = Settings
    for part in where:
        in_section = isinstance(section, type) and issubclass(section, BaseModel)
        section = section.model_fields[part].annotation if in_section else get_args(section)[1]
        if isinstance(section, UnionType):  # a section that may be left out
            section = get_args(section)[0]
    return cast("type[BaseModel]", section)


def _field_at(where: list[str]) -> FieldInfo:
    """The field at a key. A model's name is no field: what is said of it is said of `models`."""
    is_model = len(where) == 2 and where[0] == "models"  # noqa: PLR2004 - models.<name>
    return Settings.model_fields["models"] if is_model else _section_at(where[:-1]).model_fields[where[-1]]


def _enum(field: FieldInfo) -> type[Enum]:
    assert isinstance(field.annotation, type)  # noqa: S101 - no enum of the settings is optional
    assert issubclass(field.annotation, Enum)  # noqa: S101 - pydantic said so
    return field.annotation


def _bounds(field: FieldInfo) -> str:
    words = []
    for bound in _metadata(field):
        match bound:
            case annotated_types.Gt():
                words.append(f"above {bound.gt}")
            case annotated_types.Ge():
                words.append(f"of at least {bound.ge}")
            case annotated_types.Lt():
                words.append(f"below {bound.lt}")
            case annotated_types.Le():
                words.append(f"of at most {bound.le}")
    return " and ".join(words)


def _metadata(field: FieldInfo) -> Iterable[object]:
    """Of the field, or of its type where it may be left out."""
    for kind in get_args(field.annotation):
        if get_origin(kind) is Annotated:
            for each in kind.__metadata__:
                yield from each.metadata if isinstance(each, FieldInfo) else (each,)
    yield from field.metadata


def _for_example(field: FieldInfo) -> str:
    scalar = isinstance(field.default, int | float | str)
    return f", for example {str(field.default).lower()}" if scalar else ""
