"""Conformal test martingales: bets against the claim that traffic is like the calibration data.

Whoever bets at fair odds against a true claim does not grow rich: capital that begins at 1 and is a martingale under
the claim ever reaches c with probability at most 1/c (Ville, 1939). Testing exchangeability by betting on conformal
p-values is due to Vovk, Nouretdinov and Gammerman (2003); with a calibration set of its own it is the inductive
conformal martingale of Volkhonskiy et al. (2017).

Conformal p-values of one calibration set are not independent: if its scores happen to lie high, then all p-values of a
stream tend to be large. A martingale that takes them for independent wins from that alone, in the long run surely. So
the odds here are those of the exact joint law. n calibration scores cut the line into n + 1 gaps, and if all scores are
exchangeable, a new one falls into a gap with the probability (1 + earlier ones in it) / (n + 1 + all earlier ones):
Polya's urn, whatever the scores' distribution. Each item is calibrated among the calibration scores *and* the items
before it. Of the gaps only cells of some are kept, so the state doesn't grow.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Final

import numpy as np

from guard.values import Float64Array, IntArray

_CUTS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98)
_POWERS: Final = np.array([0.3, 0.6, 0.85])
"""Bets of k p^(k-1) for small p-values, and the same for large ones (Vovk et al., 2003): from bold to timid."""

_SLEEP_ITEMS = 500.0


class Martingales:
    """Some martingales beside each other, each of which is shown the items that its caller chooses.

    `flagged` of the n + 1 gaps are those of flagged items. They are one cell, so how extreme a flagged item is makes no
    difference. Capital is spread over when the change came: all of it sleeps at first, and some wakes before each item,
    soon or late, so that little is lost in a long time without a change. It is kept below `most`, which loses only.
    """

    def __init__(self, rows: int, *, n: int, flagged: int, most: float) -> None:
        cuts = {flagged, *(round(cut * (n + 1)) for cut in _CUTS if cut * (n + 1) > flagged)} - {0, n + 1}
        self._starts = [0, *sorted(cuts)]
        self._gaps = np.diff([*self._starts, n + 1]).astype(np.float64)
        self._most = most / (2 * len(_POWERS))
        self._total = n + 1
        self._counts = np.empty((rows, len(self._gaps)))
        self._seen, self._asleep = np.empty(rows, np.int64), np.empty(rows)
        self._awake = np.empty((2, rows, len(_POWERS)))
        self.restart()

    @property
    def capital(self) -> Float64Array:
        """What each has made of 1, (rows,)."""
        capital: Float64Array = self._asleep + self._awake.sum(axis=(0, 2))
        return capital

    @property
    def directions(self) -> Float64Array:
        """What each has made by betting that scores are more extreme, and less extreme, (2, rows)."""
        directions: Float64Array = self._awake.sum(axis=2)
        return directions

    def show(self, gap: int, rows: IntArray) -> None:
        """Show an item to some of them: `gap` counts the calibration scores above it."""
        cell = bisect_right(self._starts, gap) - 1
        seen, asleep = self._seen[rows], self._asleep[rows]
        below = self._counts[rows, :cell].sum(axis=1)
        within = self._counts[rows, cell]
        # Where the cell begins and ends among all p-values, from either end.
        total = seen + self._total
        ends = np.array([below + within, total - below, below, total - below - within]) / total
        won = ends[:, :, None] ** _POWERS
        factors = (won[:2] - won[2:]) / (within / total)[:, None]
        seen += 1
        left = _asleep(seen)
        awake = self._awake[:, rows] + ((asleep - left) / (2 * len(_POWERS)))[:, None]
        self._awake[:, rows] = np.minimum(awake * factors, self._most)
        self._counts[rows, cell] += 1
        self._seen[rows], self._asleep[rows] = seen, left

    def restart(self) -> None:
        """Forget all items."""
        self._counts[:] = self._gaps
        self._seen[:], self._asleep[:] = 0, 1.0
        self._awake[:] = 0.0


def _asleep(seen: IntArray) -> Float64Array:
    """The share of the capital that sleeps after so many items: what a late change costs grows with its logarithm."""
    asleep: Float64Array = 1 / (1 + np.log1p(seen / _SLEEP_ITEMS))
    return asleep
