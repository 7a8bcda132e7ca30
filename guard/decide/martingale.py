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

from guard.values import DriftDirection, Float64Array, IntArray

_CUTS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98)
_SLEEP_ITEMS = 500.0

_POWERS: Final = np.array([0.3, 0.6])
"""Bets of k p^(k-1) for small p-values (Vovk et al., 2003), and the same from the other end for large ones."""

_BANDS: Final = np.array([0.0, 0.2, 0.4, 0.6, 0.8, 0.0])
_WIDTHS: Final = np.array([0.2, 0.2, 0.2, 0.2, 0.2, 0.1])
_SHARES: Final = np.array([0.25, 0.25, 0.25, 0.25, 0.25, 0.08])
"""A share of the capital on a band, for p-values that crowd anywhere, and for a few more in the tail."""

_MORE, _LESS, _ALIKE = DriftDirection.MORE_EXTREME, DriftDirection.LESS_EXTREME, DriftDirection.MORE_ALIKE
_DIRECTIONS: Final = (_MORE, _MORE, _LESS, _LESS, _MORE, _MORE, _ALIKE, _LESS, _LESS, _MORE)
"""What each of these is on: the powers, their mirror images, the bands. The last bet is on what came lately."""

_BETS: Final = len(_DIRECTIONS) + 1
_KEPT, _PRIOR_ITEMS = 0.997, 30.0


class Martingales:
    """Some martingales beside each other, each of which is shown the items that its caller chooses.

    `flagged` of the n + 1 gaps are those of flagged items. They are one cell, so how extreme a flagged item is makes no
    difference. Capital is spread over bets, and over when the change came: all of it sleeps at first, and some wakes
    before each item, soon or late, so that little is lost in a long time without a change. What a bet has made is kept
    below `most`, which can only lose.
    """

    def __init__(self, rows: int, *, n: int, flagged: int, most: float) -> None:
        cuts = {flagged, *(round(cut * (n + 1)) for cut in _CUTS if cut * (n + 1) > flagged)} - {0, n + 1}
        self._starts = [0, *sorted(cuts)]
        self._gaps = np.diff([*self._starts, n + 1]).astype(np.float64)
        self._most = most
        self._counts = np.empty((rows, len(self._gaps)))
        self._shown, self._asleep = np.empty(rows), np.empty(rows)
        self._awake = np.empty((rows, _BETS))
        self._lately = np.empty_like(self._counts)
        self.restart()

    def restart(self) -> None:
        """Forget all items."""
        self._counts[:] = self._gaps
        self._shown[:], self._asleep[:], self._awake[:], self._lately[:] = 0.0, 1.0, 0.0, 0.0

    @property
    def capital(self) -> Float64Array:
        """What each has made of 1, (rows,)."""
        capital: Float64Array = self._asleep + self._awake.sum(axis=1)
        return capital

    def direction(self, weights: Float64Array) -> DriftDirection:
        """What the bets were on that made most, with weights (rows,) for the martingales."""
        made = dict.fromkeys(DriftDirection, 0.0)
        for direction, each in zip(_DIRECTIONS, (weights @ self._awake)[:-1], strict=True):
            made[direction] += float(each)
        return max(made, key=lambda direction: made[direction])

    def show(self, gap: int, rows: IntArray) -> None:
        """Show an item to some of them: `gap` counts the calibration scores above it."""
        cell = bisect_right(self._starts, gap) - 1
        below, within = self._counts[rows, :cell].sum(axis=1), self._counts[rows, cell]
        total = self._shown[rows] + self._gaps.sum()
        odds = within / total
        # The item's p-value is anywhere in its cell, so a bet pays what it pays there on average.
        paid = (_paid_up_to((below + within) / total) - _paid_up_to(below / total)) / odds[:, None]
        paid_lately = self._paid_lately(cell, rows, odds)
        self._counts[rows, cell] += 1
        self._shown[rows] += 1
        asleep = 1 / (1 + np.log1p(self._shown[rows] / _SLEEP_ITEMS))
        woken = (self._asleep[rows] - asleep) / _BETS
        made = (self._awake[rows] + woken[:, None]) * np.column_stack([paid, paid_lately])
        self._awake[rows] = np.minimum(made, self._most)
        self._asleep[rows] = asleep

    def _paid_lately(self, cell: int, rows: IntArray, odds: Float64Array) -> Float64Array:
        """What half a bet on the cells of the last few hundred items pays (Eliades and Papadopoulos, 2021), (rows,)."""
        lately = self._lately[rows]
        share = (lately[:, cell] + _PRIOR_ITEMS * odds) / (lately.sum(axis=1) + _PRIOR_ITEMS)
        lately *= _KEPT
        lately[:, cell] += 1
        self._lately[rows] = lately
        paid: Float64Array = (1 + share / odds) / 2
        return paid


def _paid_up_to(p: Float64Array) -> Float64Array:
    """What each bet but the last pays for p-values from 0 to p, integrated. Up to 1 each pays 1, which is fair."""
    p = p[:, None]
    bands = (1 - _SHARES) * p + _SHARES / _WIDTHS * np.clip(p - _BANDS, 0.0, _WIDTHS)
    return np.concatenate([p**_POWERS, 1 - (1 - p) ** _POWERS, bands], axis=1)
