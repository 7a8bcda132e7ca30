"""What a page of the admin port answers with."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import TypeAlias

Answer: TypeAlias = tuple[str, list[tuple[str, str]], bytes]
"""Status line, headers and body."""

Page: TypeAlias = Callable[[], Answer]

_TEXT = [("Content-Type", "text/plain; charset=utf-8")]


def text(status: HTTPStatus, words: str) -> Answer:
    """An answer in words."""
    return f"{status.value} {status.phrase}", list(_TEXT), f"{words}\n".encode()


def unavailable(reasons: Iterable[str]) -> Answer:
    """503, with a reason on each line."""
    return text(HTTPStatus.SERVICE_UNAVAILABLE, "\n".join(reasons))
