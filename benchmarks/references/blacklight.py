"""Blacklight: is a query so like an earlier one that both belong to one attack?

Li, Shan, Wenger, Zhang, Zheng and Zhao, "Blacklight: Scalable Defense for Neural Networks against Query-Based Black-Box
Attacks" (USENIX Security 2022), with the parameters of the authors' public code: levels moved by a salt for each value,
modulo 255, and rounded to multiples of 50; SHA-256 of each window of 20 values, one step apart, in flat order; the 50
largest of the distinct hashes, read backwards, are the fingerprint. A query is an attack's if it shares 25 of them with
any earlier query. The salt is drawn once, the store has no bound and knows no clients.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from typing import Final

import numpy as np

from guard.values import Float32Array

WINDOW: Final = 20
ROUNDING: Final = 50
KEPT: Final = 50
THRESHOLD: Final = 25
_LEVELS = 255.0


class Blacklight:
    """The store, and the question."""

    def __init__(self, shape: tuple[int, ...], seed: int = 0) -> None:
        self._salt = np.random.default_rng(seed).random(shape) * _LEVELS
        self._holders: defaultdict[bytes, list[int]] = defaultdict(list)
        self._queries = 0

    def look(self, x: Float32Array) -> bool:
        """Whether a query in [0, 1] is like an earlier one; it is stored."""
        hashes = self._fingerprint(x)
        shared = Counter(holder for each in hashes for holder in self._holders[each])
        for each in hashes:
            self._holders[each].append(self._queries)
        self._queries += 1
        return max(shared.values(), default=0) >= THRESHOLD

    def _fingerprint(self, x: Float32Array) -> list[bytes]:
        levels = (x * _LEVELS + self._salt) % _LEVELS
        flat = (np.around(levels.ravel() / ROUNDING) * ROUNDING).astype(np.int16)
        content, width = flat.tobytes(), 2 * WINDOW
        windows = range(0, len(content) - width + 1, 2)
        distinct = {hashlib.sha256(content[start : start + width]).hexdigest()[::-1] for start in windows}
        return [each.encode() for each in sorted(distinct, reverse=True)[:KEPT]]
