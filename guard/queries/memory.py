"""Fingerprints of recent queries, in as much memory as was given at the start.

All of them are compared with each new one: 512 bits against 65,536 others take a tenth of a millisecond. What is
forgotten first is the oldest query that nothing resembled, so an attacker who waits between two queries has to
outwait the whole memory, or its time, each time; and one who sends very many takes no more room than a few dozen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from guard.queries.fingerprint import BITS, WORDS
from guard.values import Float64Array, IntArray, UInt64Array

_HEAD_WORDS: Final = 2
_HEAD_DEVIATIONS = 4.0
_MOST_ALIKE = 64
"""Entries that resemble each other, of which a new one takes the place of the oldest."""

_MOST_SPARED = 1024


@dataclass(frozen=True, slots=True)
class Radii:
    """How many bits two inputs may differ in and be near-duplicates.

    Of one client, and of all together: among more inputs there are more that are alike by chance.
    """

    client: int
    everyone: int


@dataclass(frozen=True, slots=True)
class Query:
    """An input as it is remembered: its fingerprint (WORDS,), the keyed name of its values, and that of its client."""

    print: UInt64Array
    exact: int
    client: int


@dataclass(frozen=True, slots=True)
class Alike:
    """Distinct near-duplicates of a query that are remembered: its client's, and all clients'.

    `known`: these very values were sent before, by whomever, so the answer tells nobody anything new. `repeated`: by
    this client itself. `group` is that of the nearest one, or a new one.
    """

    client: int
    everyone: int
    known: bool
    repeated: bool = False
    group: int = field(default=0, compare=False)


class QueryMemory:
    """Remembers `capacity` queries for `keep_s` seconds at most. Not for several threads at once."""

    def __init__(self, *, capacity: int, keep_s: float, radii: Radii) -> None:
        self._capacity, self._keep_s, self._radii = capacity, keep_s, radii
        self._heads: UInt64Array = np.zeros((_HEAD_WORDS, capacity), np.uint64)
        self._rows: UInt64Array = np.zeros((capacity, WORDS), np.uint64)
        self._exact: UInt64Array = np.zeros(capacity, np.uint64)
        self._client: UInt64Array = np.zeros(capacity, np.uint64)
        self._group: UInt64Array = np.zeros(capacity, np.uint64)
        self._seen_s: Float64Array = np.full(capacity, -math.inf)
        self._resembled = np.zeros(capacity, np.bool_)
        self._used = self._hand = 0
        self._widest = max(radii.client, radii.everyone)
        self._head_widest = _widest_head(self._widest)

    def __len__(self) -> int:
        return self._used

    @property
    def nbytes(self) -> int:
        """Bytes that the memory takes, from its beginning."""
        arrays = (self._heads, self._rows, self._exact, self._client, self._group, self._seen_s, self._resembled)
        return sum(array.nbytes for array in arrays)

    def look(self, query: Query, now_s: float) -> Alike:
        """What is remembered of a query's like; then remember it too."""
        places, distances = self._near(query.print, now_s)
        same, own = self._same(query, places)
        alike = Alike(
            client=self._count(places[own & ~same & (distances <= self._radii.client)]),
            everyone=self._count(places[~same & (distances <= self._radii.everyone)]),
            known=bool(same.any()),
            repeated=bool((same & own).any()),
            group=self._group_of(query, places, distances),
        )
        self._keep(query, now_s, alike.group, places, places[same & own])
        return alike

    def learn(self, query: Query, seen_s: float, now_s: float) -> None:
        """Remember a query that another memory saw at `seen_s`, as if this one had."""
        if seen_s <= now_s - self._keep_s:
            return
        places, distances = self._near(query.print, now_s)
        same, own = self._same(query, places)
        self._keep(query, seen_s, self._group_of(query, places, distances), places, places[same & own])

    def _group_of(self, query: Query, places: IntArray, distances: IntArray) -> int:
        """The group of the nearest query; where none is near, a new one by this query's own name."""
        return int(self._group[places[distances.argmin()]]) if len(places) else query.exact

    def _near(self, fingerprint: UInt64Array, now_s: float) -> tuple[IntArray, IntArray]:
        """Places of the queries within the widest radius, and their distances. A quarter of the bits rules most out."""
        heads = self._heads[:, : self._used]
        distances = np.bitwise_count(heads[0] ^ fingerprint[0])
        for word in range(1, _HEAD_WORDS):
            distances += np.bitwise_count(heads[word] ^ fingerprint[word])
        places = np.flatnonzero(distances <= self._head_widest)
        exact = np.bitwise_count(self._rows[places] ^ fingerprint).sum(axis=1, dtype=np.int64)
        near = (exact <= self._widest) & (self._seen_s[places] > now_s - self._keep_s)
        return places[near], exact[near]

    def _same(self, query: Query, places: IntArray) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Which of these places hold the query's very values, and which are of its client."""
        return self._exact[places] == query.exact, self._client[places] == query.client

    def _keep(self, query: Query, seen_s: float, group: int, alike: IntArray, again: IntArray) -> None:
        self._resembled[alike] = True
        if len(again):
            self._seen_s[again] = np.maximum(self._seen_s[again], seen_s)
        else:
            self._remember(query, seen_s, group, alike)

    def _count(self, places: IntArray) -> int:
        return len(np.unique(self._exact[places]))

    def _remember(self, query: Query, now_s: float, group: int, alike: IntArray) -> None:
        place = int(alike[self._seen_s[alike].argmin()]) if len(alike) >= _MOST_ALIKE else self._free_place()
        self._heads[:, place] = query.print[:_HEAD_WORDS]
        self._rows[place] = query.print
        self._exact[place], self._client[place], self._group[place] = query.exact, query.client, group
        self._seen_s[place] = now_s
        self._resembled[place] = len(alike) > 0

    def _free_place(self) -> int:
        """The next place in turn, but those that were resembled since the last turn are spared once (Corbato, 1968)."""
        if self._used < self._capacity:
            self._used += 1
            return self._used - 1
        turn = self._resembled[self._hand : self._hand + _MOST_SPARED]
        spared = int(turn.argmin()) if not turn.all() else 0
        turn[:spared] = False
        place = self._hand + spared
        self._hand = (place + 1) % self._capacity
        return place


def _widest_head(radius: int) -> int:
    """Bits of the head that may differ: of inputs within the radius, one in 30,000 differs in more."""
    bits, share = 64 * _HEAD_WORDS, radius / BITS
    return math.ceil(bits * share + _HEAD_DEVIATIONS * math.sqrt(bits * share * (1 - share)))
