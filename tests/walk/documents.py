"""What the documents have a reader type: lines of indented blocks and of shells' fences, and commands in sentences."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml

ROOT: Final = Path(__file__).parents[2]
DOCUMENTS: Final = (
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "examples/README.md", "proto/README.md")),
    ROOT / "guard" / "console" / "static" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
)
PROGRAMS: Final = (
    "amtool",
    "curl",
    "docker",
    "guard",
    "head",
    "kill",
    "kind",
    "kubectl",
    "make",
    "npm",
    "pip",
    "playwright",
    "python",
    "ssh",
)
"""A command within a sentence begins with one of these."""

NO_COMMANDS: Final = (
    "ACL SETUSER",
    "engine key =",
    "histogram_quantile(",
    "p = (1 +",
    "rate(",
    "rejected by guard:",
    "sum(rate(",
)
"""How indented blocks begin that are formulas, queries and messages."""

_FENCE = re.compile(r"^```(.*?)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_SHELLS: Final = frozenset({"bash", "console", "sh", "shell"})
_INDENTED = re.compile(r"^(?P<before>.*)\n(?:\n*)(?P<block>(?:^ {4}.*\n(?:[ \t]*\n)*)+)", re.MULTILINE)
_GROUPS: Final = frozenset({"guard", "audit", "profile"})


@dataclass(frozen=True, slots=True, order=True)
class Typed:
    """A line that a document has."""

    document: str
    line: str


def typed() -> Iterator[Typed]:
    """All of them."""
    for document in DOCUMENTS:
        name, text = str(document.relative_to(ROOT)), _FENCE.sub("", document.read_text())
        for found in _INDENTED.finditer(text):
            block = textwrap.dedent(found["block"])
            if not found["before"].startswith(":::") and not block.strip().startswith(NO_COMMANDS) and not _yaml(block):
                yield from (Typed(name, plain(line)) for line in block.splitlines() if line.strip())
        fences = (code for language, code in _FENCE.findall(document.read_text()) if language.strip() in _SHELLS)
        yield from (Typed(name, plain(line)) for code in fences for line in code.splitlines() if line.strip())
        prose = re.sub(r"^ {4}.*$", "", text, flags=re.MULTILINE)
        spans = (plain(" ".join(span.split())) for span in re.findall(r"`([^`]+)`", prose))
        yield from (Typed(name, span) for span in spans if _is_command(span))


def block(document: str, begins: str) -> str:
    """The one fenced block of a document that begins so."""
    (found,) = (code for _, code in _FENCE.findall((ROOT / document).read_text()) if code.startswith(begins))
    return str(found)


def plain(line: str) -> str:
    """Without a comment, and with programs named as they are where the environment is on the path."""
    return re.sub(r"\s+#.*", "", line).strip().replace(".venv/bin/", "")


def _is_command(span: str) -> bool:
    """Whether it could be typed as it is: `guard calibrate` is the name of a command, and no use of it."""
    program, *words = span.split()
    if program not in PROGRAMS or not words:
        return False
    return program != "guard" or len(words) > 1 + (words[0] in _GROUPS) or words[0].startswith("--")


def _yaml(block: str) -> bool:
    """Whether a block is a part of a policy."""
    try:
        content = yaml.safe_load(block)
    except yaml.YAMLError:
        return False
    return isinstance(content, dict) and all(re.fullmatch(r"\w+", str(key)) for key in content)
