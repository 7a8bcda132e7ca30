"""Drift: whether traffic is still like the calibration data. One signal beside the flags, that says why they are many.

It is a test of its own and changes no verdict: what is flagged goes on being flagged. Evidence is capital won by
betting, see `martingale`. In a run, from start or from the last all-clear on, a *false* alarm has at most the
probability that the policy allows, however long the run is: under exchangeability of the calibration scores and all
items counted, over the draw of both.

An attack must not look like drift of everybody, and nobody must be able to hide drift. So clients come in groups, and
beside the martingale of all items there are two for each group: of its own items, and of all *but* its own. Several
clients have drifted where the evidence is still there without any one group; then the bound holds whatever one client
sends, and one that floods Guard with ordinary inputs can't water down what the others' own martingales win. Evidence
that is gone without some group is drift, or an attack, of one client.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

import numpy as np

from guard.decide.martingale import Martingales
from guard.values import (
    DriftChange,
    DriftScope,
    Evidence,
    Fault,
    IntArray,
    ItemDecision,
    Verdict,
)

_GROUPS: Final = 16
_REMEMBERED: Final = 1024
_MOST: Final = 1e12
_AGAIN: Final = 1000
_STILL: Final = 0.5
_WEIGHTS: Final = np.array([1.0, *[1 / _GROUPS] * _GROUPS, *[0.0] * _GROUPS])


class Drift:
    """The drift of one model's traffic. Not for several threads at once, but any may read.

    `n` is the number of calibration scores and `threshold` the p-value at or below which an item is flagged;
    `false_alarm` is the probability of a false alarm in a run.
    """

    def __init__(self, *, n: int, threshold: float, false_alarm: float, rng: np.random.Generator) -> None:
        self._n, self._rng = n, rng
        self._alarm = -math.log(false_alarm)
        self._martingales = Martingales(
            1 + 2 * _GROUPS, n=n, flagged=round(threshold * (n + 1)), most=_MOST / false_alarm
        )
        self._shown_to = [_rows(group) for group in range(_GROUPS)]
        self._groups: dict[int, int] = {}
        self._recent: dict[int, None] = {}
        self._order_of_ties = rng.random(n)
        self._items, self._most_evidence = 0, 0.0
        self._evidence = dict.fromkeys(DriftScope, 0.0)
        self.suspected: DriftScope | None = None

    def log_martingale(self, scope: DriftScope) -> float:
        """The evidence as the log of what one unit of capital became: 0 says nothing, below is for no drift."""
        return self._evidence[scope]

    def observe(self, items: Iterable[ItemDecision], client: str) -> DriftChange | None:
        """Count the items of a request, once judged. Says so where that raises or clears the suspicion.

        Items that were not screened whole aren't counted: they were not calibrated so. Neither are repetitions of one
        of the last thousand, as health checks and retries send them, which would count as evidence each time.
        """
        rows = self._shown_to[self._group(client)]
        before = self._items
        for item in items:
            gap = self._gap(item)
            if gap is not None:
                self._martingales.show(gap, rows)
                self._items += 1
        return None if self._items == before else self._weigh()

    def _group(self, client: str) -> int:
        """The first clients have a group each; later ones share theirs."""
        name = hash(client)  # drawn anew by each process, so nobody chooses whose group to share
        if name not in self._groups and len(self._groups) < _GROUPS:
            self._groups[name] = len(self._groups)
        return self._groups.get(name, name % _GROUPS)

    def _gap(self, item: ItemDecision) -> int | None:
        """How many calibration scores are above the item's. Those that are as high are ordered by chance.

        Their order is drawn once, so that it is as if no two scores were the same.
        """
        if item.p_value is None or any(isinstance(finding, Fault) for finding in item.findings):
            return None
        if item.verdict is Verdict.UNSCREENED or self._repeated(item):
            return None
        at_least = round(item.p_value * (self._n + 1)) - 1
        above = at_least - item.ties
        if item.ties:
            above += int((self._order_of_ties[above:at_least] > self._rng.random()).sum())
        return above

    def _repeated(self, item: ItemDecision) -> bool:
        """Guard's answer to the same values is the same to the last digit, and to others hardly ever."""
        name = hash((item.p_value, *(f.score for f in item.findings if isinstance(f, Evidence))))
        if name in self._recent:
            return True
        self._recent[name] = None
        if len(self._recent) > _REMEMBERED:
            del self._recent[next(iter(self._recent))]
        return False

    def _weigh(self) -> DriftChange | None:
        capital = self._martingales.capital
        own, without = capital[1 : 1 + _GROUPS], capital[1 + _GROUPS :]
        one = math.log((capital[0] + own.mean()) / 2)
        # Each group but the one that is left out, alone and together with others.
        several = math.log((without + (own.sum() - own) / (_GROUPS - 1)).min() / 2)
        self._evidence = {DriftScope.ONE_CLIENT: one, DriftScope.SEVERAL_CLIENTS: several}
        self._most_evidence = max(self._most_evidence, one)
        before, self.suspected = self.suspected, self._scope(one, several)
        change = None
        if self.suspected is not before:
            change = DriftChange(self.suspected, self._martingales.direction(_WEIGHTS), one, self._items)
        if change is not None or (before is not None and self._items >= _AGAIN):
            self._martingales.restart()
            self._items, self._most_evidence = 0, 0.0
        return change

    def _scope(self, one: float, several: float) -> DriftScope | None:
        if self.suspected is not DriftScope.SEVERAL_CLIENTS and min(one, several) >= self._alarm:
            return DriftScope.SEVERAL_CLIENTS
        if self.suspected is None:
            # Where there is evidence without any one client too, a little more of it may show that.
            waits = several > 0 and one < 2 * self._alarm
            return DriftScope.ONE_CLIENT if one >= self._alarm and not waits else None
        over = self._items >= _AGAIN and self._most_evidence < self._alarm * _STILL
        return None if over else self.suspected


def _rows(group: int) -> IntArray:
    """The martingales that an item of a group is shown to: of all items, of its own, of those without each other."""
    others = [1 + _GROUPS + other for other in range(_GROUPS) if other != group]
    return np.array([0, 1 + group, *others])
