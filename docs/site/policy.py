"""The reference of settings, made from the JSON Schema of the policy at each build: it can't be older than the code."""

# ruff: noqa: INP001 - MkDocs loads this file by its path

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from guard.config_file import json_schema

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

_PLACE = "<!-- settings -->"
_BOUNDS = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
_KINDS = {"string": "text", "integer": "a whole number", "number": "a number", "boolean": "`true` or `false`"}


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001 - MkDocs passes all
    """Put the settings into the page that has a place for them."""
    return markdown.replace(_PLACE, settings(json_schema())) if _PLACE in markdown else markdown


def settings(schema: Mapping[str, Any]) -> str:
    """A table for each section of the policy, in the order of the schema."""
    defs = schema["$defs"]
    return "\n\n".join(f"## {_heading(path)}\n\n{table}" for path, table in _tables("", schema, defs))


def _heading(path: str) -> str:
    return f"`{path}`" if path else "At the top"


def _tables(path: str, section: Mapping[str, Any], defs: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The table of a section, and then those of the sections within it."""
    rows, inside = [], []
    for name, field in section["properties"].items():
        full = f"{path}.{name}" if path else name
        inner = _inner(field, defs)
        if inner is None:
            needed = name in section.get("required", ())
            default = "needed" if needed else _default(field)
            rows.append(f"| `{name}` | {_takes(field, defs)} | {default} | {_escaped(field['description'])} |")
        else:
            place = f"{full}.NAME" if "additionalProperties" in field else full
            anchor = place.replace(".", "").lower()
            rows.append(f"| `{name}` | [a section](#{anchor}) | | {_escaped(field['description'])} |")
            inside.append((place, inner))
    yield path, "\n".join(["| setting | takes | default | what it is |", "| --- | --- | --- | --- |", *rows])
    for place, inner in inside:
        yield from _tables(place, inner, defs)


def _inner(field: Mapping[str, Any], defs: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The section that a setting is, or that each of its values is; None where it is a plain value."""
    values = field.get("additionalProperties")
    for each in (values if isinstance(values, dict) else {}, field, *field.get("anyOf", ())):
        found: Mapping[str, Any] = defs.get(each.get("$ref", "").rpartition("/")[2], {})
        if "properties" in found:
            return found
    return None


def _takes(field: Mapping[str, Any], defs: Mapping[str, Any]) -> str:
    for each in field.get("anyOf", (field,)):
        found = defs.get(each["$ref"].rpartition("/")[2], {}) if "$ref" in each else each
        if "enum" in found:
            return ", ".join(f"`{value}`" for value in found["enum"])
        if found.get("type") != "null":
            bounds = [f"{words} {found[name]:,}" for name, words in _BOUNDS.items() if name in found]
            return ", ".join([_kind(found), *bounds])
    raise ValueError(f"{field} takes nothing")


def _kind(field: Mapping[str, Any]) -> str:
    return "a path" if field.get("format") == "path" else _KINDS[field["type"]]


def _default(field: Mapping[str, Any]) -> str:
    value = field.get("default")
    if value is None:
        return "none"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else f"`{_plain(value)}`"


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _escaped(text: str) -> str:
    """Words of a description in a table's cell: what stands in angle brackets is no HTML, and bars are no borders."""
    return text.replace("|", "\\|").replace("<", "&lt;")
