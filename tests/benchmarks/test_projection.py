"""Principal components as detectors: what lies outside of clean samples' plane scores high, and nothing else does."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.detection.projection import Components

RNG = np.random.default_rng(0)
PLANE = RNG.normal(size=(3, 20))


def points(n: int, outside: float) -> np.ndarray:
    """Points about a plane of three dimensions in twenty."""
    return 5 + RNG.normal(size=(n, 3)) @ PLANE + outside * RNG.normal(size=(n, 20))


@pytest.mark.parametrize("score", ["residual", "tail"])
def test_what_lies_outside_scores_high(score: str) -> None:
    """Three components lead, and a change that leaves their plane shows, however large the point is within it."""
    components = Components.of(points(500, 0.05))
    assert components.leading <= 3
    measured = getattr(components, score)
    inside, outside = measured(points(200, 0.05)), measured(points(200, 0.5))
    assert outside.min() > np.quantile(inside, 0.99)
    far = points(200, 0.05) + 10 * PLANE[0]
    if components.leading == 3:
        assert np.median(measured(far)) < 1.5 * np.median(inside)


def test_residual_is_a_distance() -> None:
    """It is the length of what the leading components leave."""
    components = Components.of(points(500, 0.0))
    normal = np.linalg.svd(PLANE)[2][-1]  # of unit length, at right angles to the plane
    x = points(4, 0.0)
    assert components.leading <= 3
    moved = components.residual(x + 2 * normal) ** 2 - components.residual(x) ** 2
    np.testing.assert_allclose(moved, 4, atol=0.05)
