"""From benign inputs to the distances at which two of them are too alike to be there by chance."""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from guard.layout import is_image
from guard.profile.spec import QueryRadii
from guard.queries.fingerprint import BITS, Fingerprinter
from guard.values import Float32Array, Float64Array, IntArray, Layout, UInt64Array

LIMIT: Final = 3
"""Near-duplicates for which the radii are made; a policy with a higher limit is the milder for it."""

CLIENT_QUERIES: Final = 1_000
"""Different benign inputs of one client that a memory holds, about."""

_EVERYONE_QUERIES = 65_536
_MOST_SAMPLES = 2_000
_LEAST_SAMPLES = 50
_MARGIN = 0.9
_WIDEST_CLIENT, _WIDEST_EVERYONE = 80, 56
"""No radius is wider: large collections hold real near-duplicates, which samples of them don't show.

Of 48,000 training images of CIFAR-10, two thousand samples would give 94 bits for everyone: 884 pairs are within it,
and one photograph with sixteen others. 153 pairs are within 56, none of them with five others, which make an attack.
"""

_KEYS = 2
_NEIGHBOURS = 10


def radii_of(benign: Float32Array, bounds: tuple[float, float], layout: Layout | None = None) -> QueryRadii | None:
    """Radii within which no benign input is expected to have as many neighbours as make an attack.

    The distance of an input's k-th nearest neighbour among n shrinks to (n / m)^(1/d) of it among m, d being the
    dimension of the inputs near each other, by maximum likelihood (Levina and Bickel, 2004). Taken is the smallest
    of all benign inputs, at the size of a client's and of everybody's memory, less a tenth, and within bounds. None for
    inputs that are no images, and for fewer samples than say anything.
    """
    samples = benign[:_MOST_SAMPLES]
    if not is_image(samples.shape[1:], layout) or len(samples) < _LEAST_SAMPLES:
        return None
    span = bounds[1] - bounds[0]
    found = []
    for key in range(_KEYS):  # another secret gives other bits, and nearly the same distances
        fingerprinter = Fingerprinter(bytes([key]) * 32, "calibration", samples.shape[1:], span, layout)
        nearest = _nearest(fingerprinter.prints(samples)[0])
        dimension = _dimension(nearest)
        found.append(
            (
                _radius(nearest, LIMIT, len(samples) / CLIENT_QUERIES, dimension),
                _radius(nearest, LIMIT + 1, len(samples) / _EVERYONE_QUERIES, dimension),
            )
        )
    client, everyone = (int(min(each)) for each in zip(*found, strict=True))
    client, everyone = min(client, _WIDEST_CLIENT), min(everyone, _WIDEST_EVERYONE)
    return QueryRadii(client=client, everyone=min(client, everyone))


def _radius(nearest: IntArray, neighbours: int, ratio: float, dimension: float) -> float:
    smallest = float(nearest[:, neighbours - 1].min())
    return _MARGIN * smallest * math.pow(min(1.0, ratio), 1 / dimension)


def _nearest(prints: UInt64Array) -> IntArray:
    """Distances of each input's nearest others, ascending, (n, 10)."""
    nearest = np.empty((len(prints), _NEIGHBOURS), np.int64)
    for index, one in enumerate(prints):
        distances = np.bitwise_count(prints ^ one).sum(axis=1, dtype=np.int64)
        distances[index] = BITS
        nearest[index] = np.sort(np.partition(distances, _NEIGHBOURS)[:_NEIGHBOURS])
    return nearest


def _dimension(nearest: IntArray) -> float:
    """The median over the inputs in the densest tenth, where the radius comes from."""
    dense = nearest[np.argsort(nearest[:, -1])[: max(1, len(nearest) // 10)]].astype(np.float64)
    logs: Float64Array = np.log(np.maximum(dense[:, -1:], 1) / np.maximum(dense[:, :-1], 1))
    return 1 / max(float(np.median(logs.mean(axis=1))), 1e-3)
