"""Numbers of things in messages."""

from __future__ import annotations

from guard.plural import counted


def test_counted() -> None:
    """One thing is one thing: the words behind a number are those for so many."""
    assert [counted(number, "line") for number in (0, 1, 2)] == ["0 lines", "1 line", "2 lines"]
    assert [counted(number, "item is", "items are") for number in (1, 2)] == ["1 item is", "2 items are"]
