"""What tables of calls are made of. Each call is made of a real server directly, and of Guard in front of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.e2e.peer import Refused

SAME = object()
"""Through Guard the outcome is, to the byte, the one that the server gives directly."""


@dataclass(frozen=True)
class Case:
    """What is asked of a peer, the second argument being eight benign digits, and what comes of it on each side.

    `direct` is the outcome itself, the error of which a part is given, or a test of the outcome.
    """

    ask: Callable[[Any, np.ndarray], Any]
    direct: Any
    guarded: Any = SAME

    def check_direct(self, got: Any) -> None:
        """Compare an outcome at the server with the table."""
        _check(got, self.direct)

    def check_guarded(self, got: Any, direct: Callable[[], Any]) -> None:
        """Compare an outcome through Guard with the table, which may say that it is what `direct` gets."""
        if self.guarded is SAME:
            assert got == direct()
        else:
            _check(got, self.guarded)


def _check(got: Any, expected: Any) -> None:
    if isinstance(expected, Refused):
        assert isinstance(got, Refused), got
        assert (got.code, expected.message in got.message) == (expected.code, True), got
    elif callable(expected):
        assert not isinstance(got, Refused), got
        assert expected(got), got
    else:
        assert got == expected
