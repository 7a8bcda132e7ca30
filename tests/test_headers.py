"""What may be metadata or a header."""

from __future__ import annotations

from guard.headers import is_line, is_name


def test_names() -> None:
    """Lower case, as gRPC has them."""
    assert all(is_name(name) for name in ("x", "a.b_c-1", "x-bin"))
    assert not any(is_name(name) for name in ("", "X", "x y", "x:", "\u00e9", "x\n"))


def test_lines() -> None:
    """Printable ASCII; bytes are none."""
    assert all(is_line(value) for value in ("", "a ~"))
    assert not any(is_line(value) for value in ("a\n", "a\tb", "\x7f", "\u00e9", b"a", 1))
