"""The reference of commands, made from the commands themselves at each build."""

# ruff: noqa: INP001 - MkDocs loads this file by its path

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperGroup

from guard.cli import app

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

_PLACE = "<!-- commands -->"


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001 - MkDocs passes all
    """Put the commands into the page that has a place for them."""
    if _PLACE not in markdown:
        return markdown
    return markdown.replace(_PLACE, "\n\n".join(_sections("guard", typer.main.get_command(app))))


def _sections(name: str, command: Any) -> Iterator[str]:
    """A section for each command, those of groups too."""
    if isinstance(command, TyperGroup):
        for word, inner in command.commands.items():
            yield from _sections(f"{name} {word}", inner)
        return
    context = command.make_context(name, [], resilient_parsing=True)
    pieces = " ".join([*command.collect_usage_pieces(context)[1:], "[OPTIONS]"])
    yield f"### {name}\n\n{command.help}\n\n    {name} {pieces}"
    records = [each.get_help_record(context) for each in command.params]
    rows = [f"| `{words}` | {_told(text)} |" for words, text in filter(None, records)]
    yield "\n".join(["| | |", "| --- | --- |", *rows])


def _told(text: str) -> str:
    """What an option's help says, with its default and its bounds as code."""
    return re.sub(r"\[([^\]]+)\]$", r"(`\1`)", text.replace("|", "\\|"))
