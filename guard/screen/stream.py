"""An item's copies from one source, and what was answered about them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from guard.screen.trial import Answers, Probes, SequentialTrial, Source
from guard.values import FaultReason


class Stream:
    """An item's copies from one source: made in order, classified once, kept for every trial."""

    __slots__ = ("claims", "fault", "known", "parts", "sent", "shown", "source", "walks", "wanted")

    def __init__(self, source: Source) -> None:
        self.source = source
        self.known = 0
        """Copies classified so far."""
        self.sent = 0
        """Copies made so far: classified, or on their way."""
        self.wanted = 0
        """Copies that trials asked for so far."""
        self.shown = False
        """Whether a trial looks at its logits. Sequential ones do not, and a device then keeps them to itself."""
        self.fault: FaultReason | None = None
        self.claims: list[tuple[int, str]] = []
        """Up to which copy who pays: who asks first."""
        self.parts: list[Answers] = []
        self.walks: list[tuple[int, str, SequentialTrial]] = []
        """Sequential trials that are not at their end, with place and name."""

    def want(self, end: int, who: str) -> None:
        """Ask for all copies before `end`."""
        if end > self.wanted:
            self.wanted = end
            self.claims.append((end, who))

    def answers(self, probes: Probes) -> Answers:
        """Answers about copies that are all known."""
        if len(self.parts) > 1:
            self.parts = [_joined(self.parts)]
        return self.parts[0].part(probes.start, probes.start + probes.copies)


def _joined(parts: Sequence[Answers]) -> Answers:
    logits, changed, margins = (np.concatenate([part[i] for part in parts]) for i in range(3))
    return Answers(
        logits, changed, margins, sum(part.changes for part in parts), sum(part.margin_sum for part in parts)
    )
