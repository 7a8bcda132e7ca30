"""Room and Held: what requests hold together."""

from __future__ import annotations

import pytest

from guard.errors import Overloaded
from guard.wire.room import Room


def test_bytes_are_given_back_once() -> None:
    """Who releases twice, or after it handed over, gives nothing back that another holds."""
    room = Room(10)
    first = room.take(6)
    second = first.hand_over()
    first.release()
    with pytest.raises(Overloaded, match="6 bytes"):
        room.take(6)
    second.release()
    second.release()
    room.take(10)
    with pytest.raises(Overloaded, match="10 bytes"):
        room.take(1)
