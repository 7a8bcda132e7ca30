"""Formulas become MathML, which browsers draw themselves: the site needs no script for it, and fetches none."""

# ruff: noqa: INP001 - MkDocs loads this file by its path

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING

from latex2mathml.converter import convert

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)


def on_page_content(text: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001 - MkDocs passes all
    """Convert each formula of a page."""

    def formula(match: re.Match[str]) -> str:
        kind, bracket, latex = match.groups()
        display = "block" if bracket == "[" else "inline"
        return f'<{kind} class="formula">{convert(html.unescape(latex), display=display)}</{kind}>'

    return _FORMULA.sub(formula, text)
