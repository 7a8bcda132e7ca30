"""Which decisions are recorded: rejections always, flags up to a rate, and a sample of everything else."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from guard.recording import Audit
from guard.values import Action, Decision, Probing, UnscreenedReason, Verdict

_random = random.SystemRandom()


class Sampler:
    """Decides which requests to record. For one thread."""

    def __init__(
        self,
        settings: Audit,
        *,
        now_s: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = _random.random,
    ) -> None:
        self._forwards, self._beyond, self._per_s = settings.forwards, settings.flags_beyond, settings.flags_per_s
        self._now_s, self._draw = now_s, draw
        self._left, self._looked_s = self._per_s, now_s()

    def one_of(self, decision: Decision) -> int:
        """Of how many decisions like this one is recorded, this one being it; 0 where it is not to be."""
        if decision.action is Action.REJECT:
            return 1
        if not is_notable(decision):
            return self._drawn(self._forwards)
        now_s = self._now_s()
        self._left = min(self._per_s, self._left + (now_s - self._looked_s) * self._per_s)
        self._looked_s = now_s
        if self._left >= 1:
            self._left -= 1
            return 1
        return self._drawn(self._beyond)

    def _drawn(self, share: float) -> int:
        return round(1 / share) if share > 0 and self._draw() < share else 0


def is_notable(decision: Decision) -> bool:
    """Whether there is more to a request than that it was looked at and let through."""
    if decision.reason is UnscreenedReason.UNLISTED_MODEL and decision.action is Action.FORWARD:
        return False  # as the policy says of all of its requests
    if decision.verdict is Verdict.UNSCREENED:
        return True  # let through or not: who finds a way to that is what evidence is for
    if decision.intended is not Action.FORWARD or decision.action is not Action.FORWARD:
        return True
    return any(isinstance(f, Probing) and f.suspicious for item in decision.items for f in item.findings)
