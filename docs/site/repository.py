"""Files of the repository that pages link to become pages of the site, or downloads: no link leads out of it.

A link from docs/ to `../deploy/envoy/enforce.yaml` is right in a clone, and would be broken on the site.
"""

# ruff: noqa: INP001 - MkDocs loads this file by its path

from __future__ import annotations

import re
from collections.abc import Iterator
from os.path import relpath
from pathlib import Path
from typing import TYPE_CHECKING

from mkdocs.structure.files import File

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

_ROOT = Path(__file__).parents[2]
_DOCS = _ROOT / "docs"
_INTO = "repository"
_LINK = re.compile(r"\[([^\]]*)\]\((?!\w+:)([^)#\s]+)(#[^)\s]*)?\)")
_INTO_NAV = frozenset({"CHANGELOG.md", "CONTRIBUTING.md"})


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what is linked to, and what that links to."""
    waiting = [_DOCS / page.src_uri for page in files.documentation_pages()]
    waiting += [_ROOT / name for name in sorted(_INTO_NAV)]
    seen = set(waiting)
    while waiting:
        source = waiting.pop()
        if not source.is_relative_to(_DOCS):
            file = File.generated(config, _uri(source), abs_src_path=str(source))
            files.append(file)
        if source.suffix == ".md":
            found = {path for path in _linked(source) if path.is_file() and not path.is_relative_to(_DOCS)}
            waiting += sorted(found - seen)
            seen |= found
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001 - MkDocs passes all
    """Turn links into those of the site. A folder has no page, so what links to one is plain text."""
    uri = page.file.src_uri
    source = _ROOT / uri.removeprefix(f"{_INTO}/") if uri.startswith(f"{_INTO}/") else _DOCS / uri

    def linked(match: re.Match[str]) -> str:
        text, target, anchor = match.groups(default="")
        path = _resolved(source, target)
        if path.is_dir():
            return text
        return f"[{text}]({relpath(_uri(path), Path(uri).parent)}{anchor})"

    return _LINK.sub(linked, markdown)


def _linked(source: Path) -> Iterator[Path]:
    for match in _LINK.finditer(source.read_text()):
        yield _resolved(source, match[2])


def _resolved(source: Path, target: str) -> Path:
    return (source.parent / target).resolve()


def _uri(path: Path) -> str:
    """Where a file of the repository is on the site."""
    return str(path.relative_to(_DOCS)) if path.is_relative_to(_DOCS) else f"{_INTO}/{path.relative_to(_ROOT)}"
