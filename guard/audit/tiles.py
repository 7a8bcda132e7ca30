"""Where the heat of overlapping windows is: drawn side by side, as a grid, they would not be where they were."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from guard.values import Float64Array


@dataclass(frozen=True, slots=True)
class Tiles:
    """An image cut where windows begin or end: in pixels, `rows` and `columns`, of which the last is where it ends.

    `values` are what each tile holds, NaN where it is not known, (rows - 1, columns - 1).
    """

    rows: tuple[int, ...]
    columns: tuple[int, ...]
    values: Float64Array


def tiles_of(
    heat: Sequence[Sequence[float | None]], tops: Sequence[int], lefts: Sequence[int], size: tuple[int, int]
) -> Tiles:
    """Each tile has the mean of the windows that cover it, of those that have a value.

    `heat` is theirs, row by row; all are of one size, (height, width) in pixels, and cover the image between them.
    """
    known = np.array([[np.nan if value is None else value for value in row] for row in heat], np.float64)
    (rows, down), (columns, across) = (_cut(starts, length) for starts, length in zip((tops, lefts), size, strict=True))
    there = np.isfinite(known)
    total = down @ np.where(there, known, 0.0) @ across.T
    with np.errstate(invalid="ignore"):
        values: Float64Array = total / (down @ there @ across.T)
    return Tiles(rows, columns, values)


def _cut(starts: Sequence[int], length: int) -> tuple[tuple[int, ...], Float64Array]:
    """Where windows along one side begin or end, and which of them, (tiles, windows), cover what is between."""
    cuts = tuple(sorted({*starts, *(start + length for start in starts)}))
    begins, windows = np.array(cuts[:-1])[:, None], np.array(starts)
    return cuts, ((windows <= begins) & (begins < windows + length)).astype(np.float64)
