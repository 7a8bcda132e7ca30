"""Where the heat of overlapping windows is."""

from __future__ import annotations

import numpy as np

from guard.audit.tiles import tiles_of


def test_windows_side_by_side() -> None:
    """Each is a tile."""
    found = tiles_of([[1.0, 2.0], [3.0, 4.0]], (0, 4), (0, 6), (4, 6))
    assert (found.rows, found.columns) == ((0, 4, 8), (0, 6, 12))
    np.testing.assert_array_equal(found.values, [[1, 2], [3, 4]])


def test_windows_that_overlap() -> None:
    """Where several lie over each other is their mean; three along a side can have five tiles."""
    found = tiles_of([[3.0, 6.0, 0.0]], (0,), (0, 2, 4), (5, 3))
    assert (found.rows, found.columns) == ((0, 5), (0, 2, 3, 4, 5, 7))
    np.testing.assert_array_equal(found.values, [[3, 4.5, 6, 3, 0]])


def test_what_is_not_known() -> None:
    """A window without a value counts for none of its tiles; a tile with none is not known."""
    found = tiles_of([[None, 6.0]], (0,), (0, 2), (1, 3))
    np.testing.assert_array_equal(found.values, [[np.nan, 6, 6]])
