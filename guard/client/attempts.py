"""One call, made as often as is safe and within its deadline."""

from __future__ import annotations

import random
import time

from guard.client.errors import CallFailed, DeadlinePassed
from guard.client.reading import repeatable
from guard.client.values import Retry

_SHORTEST = 0.5


class Attempts:
    """The attempts at one call, which ends after `deadline_s` seconds (None: never); one only unless `safe`."""

    def __init__(self, retry: Retry, deadline_s: float | None, *, safe: bool) -> None:
        self._left = retry.attempts if safe else 1
        self._wait_s, self._longest_wait_s = retry.first_wait_s, retry.longest_wait_s
        self._deadline_s = deadline_s
        self._ends_s = None if deadline_s is None else time.monotonic() + deadline_s

    def remaining_s(self) -> float | None:
        """Seconds that the next attempt may take, None for any number.

        Raises:
            DeadlinePassed: none are left.
        """
        if self._ends_s is None:
            return None
        remaining_s = self._ends_s - time.monotonic()
        if remaining_s <= 0:
            raise self.out_of_time()
        return remaining_s

    def out_of_time(self) -> DeadlinePassed:
        """The error of a call whose time is over."""
        return DeadlinePassed(f"the call took longer than the {self._deadline_s:g} s allowed; raise deadline_s")

    def wait_after(self, error: CallFailed) -> float:
        """Seconds to wait before the next attempt.

        Raises:
            CallFailed: the error is the last word.
        """
        self._left -= 1
        wait_s = self._wait_s * random.uniform(_SHORTEST, 1.0)  # noqa: S311 - spreads clients, and hides nothing
        self._wait_s = min(2 * self._wait_s, self._longest_wait_s)
        too_late = self._ends_s is not None and time.monotonic() + wait_s >= self._ends_s
        if self._left <= 0 or too_late or not repeatable(error):
            raise error
        return wait_s
