"""Numbers of things, as messages have them."""

from __future__ import annotations


def counted(number: int, one: str, many: str = "") -> str:
    """A number, and what there are so many of: `1 line`, `2 lines`; `many` is said where it is not `one` with an s."""
    return f"{number} {one if number == 1 else many or one + 's'}"
