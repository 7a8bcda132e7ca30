"""The documentation as a site: built as `make docs` builds it, then read as a browser would."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import typer
from typer.core import TyperGroup

from guard.cli import app
from guard.config import Settings

ROOT = Path(__file__).parents[1]
_FETCHED = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src"}


@dataclass
class Page(HTMLParser):
    """What a page holds: its anchors, where its links lead, what a browser fetches for it, and its formulas."""

    ids: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    fetched: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take note of a tag."""
        said = {name: value or "" for name, value in attrs}
        if "id" in said:
            self.ids.add(said["id"])
        if tag == "a" and said.get("href"):
            self.links.append(said["href"])
        elif tag in _FETCHED and said.get(_FETCHED[tag]) and said.get("rel") != "canonical":
            self.fetched.append(said[_FETCHED[tag]])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the site; the build warns of nothing."""
    folder: Path = tmp_path_factory.mktemp("docs") / "site"
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", folder],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    assert built.stdout + built.stderr == ""
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    """Each page that a reader comes to."""
    read = {}
    for file in sorted(site.rglob("*.html")):
        read[file] = Page()
        read[file].feed(file.read_text())
    return read


def test_each_document_has_a_page(site: Path) -> None:
    """Every document of docs/ is on the site, and the changes and examples of the repository are too."""
    sources = [*(ROOT / "docs").rglob("*.md")]
    wanted = {site / source.relative_to(ROOT / "docs").with_suffix("") / "index.html" for source in sources}
    wanted = {page.parent.parent / "index.html" if page.parent.name == "index" else page for page in wanted}
    wanted |= {site / "repository" / name / "index.html" for name in ("CHANGELOG", "examples")}
    assert {str(page) for page in wanted if not page.is_file()} == set()


def test_links_and_anchors(site: Path, pages: dict[Path, Page]) -> None:
    """Each link within the site leads to a file that is there, and each anchor to a place in it."""
    broken = [f"{file.relative_to(site)}: {link}" for file in pages for link in _broken(site, file, pages)]
    assert len(pages) > 30
    assert broken == []


def _broken(site: Path, file: Path, pages: dict[Path, Page]) -> Iterator[str]:
    for link in (*pages[file].links, *pages[file].fetched):
        there = urlsplit(link)
        if there.scheme or (file.name == "404.html" and link.startswith("/")):
            continue
        base = site if there.path.startswith("/") else file.parent
        target = (base / unquote(there.path).lstrip("/")).resolve() if there.path else file
        target = target / "index.html" if target.is_dir() else target
        anchor = unquote(there.fragment)
        if not target.is_file() or (anchor and target in pages and anchor not in pages[target].ids | {"__toc"}):
            yield link


def test_nothing_comes_from_elsewhere(site: Path, pages: dict[Path, Page]) -> None:
    """A browser fetches nothing from other hosts: no font, no script, no picture."""
    assert [url for page in pages.values() for url in page.fetched if re.match(r"(https?:)?//", url)] == []
    styles = "".join(file.read_text() for file in site.rglob("*.css"))
    assert re.findall(r"url\(\s*['\"]?(?:https?:)?//[^)]*", styles) == []


def test_formulas_are_drawn(site: Path) -> None:
    """Formulas are MathML, and no LaTeX is left in them or outside them."""
    page = (site / "detectors" / "index.html").read_text()
    formulas = re.findall(r"<math .*?</math>", page, flags=re.DOTALL)
    assert len(formulas) > 20
    assert [formula for formula in formulas if "\\" in formula] == []
    assert "arithmatex" not in page
    assert "$" not in re.sub(r"<(script|style)\b.*?</\1>", "", page, flags=re.DOTALL)


def test_settings_are_all_there(site: Path) -> None:
    """The page of settings has each section of the policy, and each setting in it."""
    page = (site / "policy" / "index.html").read_text()
    for name, setting in Settings.model_fields.items():
        assert f"<code>{name}</code>" in page
        for inner in getattr(setting.annotation, "model_fields", {}):
            assert f"<code>{inner}</code>" in page
    assert "<!-- settings -->" not in page


def test_commands_are_all_there(site: Path) -> None:
    """The page of commands has each command, and each option of it."""
    page = (site / "commands" / "index.html").read_text()
    pending = [typer.main.get_command(app)]
    while pending:
        command = pending.pop()
        if isinstance(command, TyperGroup):
            pending += command.commands.values()
            continue
        options = [option for each in command.params for option in each.opts if option.startswith("--")]
        assert [option for option in options if option not in page] == []
    assert "<!-- commands -->" not in page
