"""Numbers to shapes."""

from __future__ import annotations

import numpy as np
import pytest

from guard.console import charts
from guard.observe.families import P_VALUE_BUCKETS


def test_bars_are_stacked() -> None:
    """Bars of a moment stand on each other, and their heights are to scale; the newest is on the right."""
    found = charts.rates({"forward": [10.0, 20.0], "reject": [0.0, 20.0]}, places=4)
    assert found.top == 50.0
    first, second, third = found.rects
    unit = charts.RATE_HEIGHT / 50
    assert [each.kind for each in found.rects] == ["forward", "forward", "reject"]
    assert [first.height, second.height, third.height] == pytest.approx([10 * unit, 20 * unit, 20 * unit])
    assert second.y == pytest.approx(charts.RATE_HEIGHT - 20 * unit)
    assert third.y == pytest.approx(charts.RATE_HEIGHT - 40 * unit)
    assert second.x == third.x == charts.RATE_WIDTH * 3 / 4
    assert first.x == charts.RATE_WIDTH / 2


def test_nothing_sent() -> None:
    """Without requests there are no bars, and a scale all the same."""
    assert charts.rates({"forward": []}, places=4) == charts.Rates((), 1.0)
    assert charts.spread((), 99).items == 0


@pytest.mark.parametrize(
    ("value", "above"), [(0.0, 1.0), (1.0, 1.0), (1.1, 2.0), (20.0, 20.0), (21.0, 50.0), (510.0, 1000.0)]
)
def test_round_numbers(value: float, above: float) -> None:
    """Scales end at round numbers that nothing is above."""
    assert charts.round_up(value) == above


@pytest.mark.parametrize("samples", [49, 319, 2400])
def test_what_is_expected_of_benign_inputs(samples: int) -> None:
    """The expected line is what conformal p-values of exchangeable inputs do: found here by drawing some."""
    rng = np.random.default_rng(0)
    p_values = (1 + rng.integers(0, samples + 1, 400_000)) / (samples + 1)
    drawn, _ = np.histogram(p_values, [0.0, *(end + 1e-12 for end in P_VALUE_BUCKETS)])
    found = charts.spread(drawn.tolist(), samples)
    assert found.expected == pytest.approx(found.observed, abs=0.003)
    assert sum(found.expected) == pytest.approx(1.0)
    assert found.expected_small == pytest.approx(found.small, abs=0.003)
    assert not any(bar.kind for bar in found.bars), "chance is not called more than chance"


def test_an_attack_stands_out() -> None:
    """A range with far more items than expected is marked; one with fewer is not."""
    found = charts.spread((0, 0, 0, 40, 5, 15, 25, 25, 15, 10), 319)
    assert [bar.kind for bar in found.bars] == ["", "", "", "over", *[""] * 6]
    assert found.small == pytest.approx(40 / 135)
    tallest = max(found.bars, key=lambda bar: bar.height)
    assert (tallest.kind, tallest.height) == ("over", charts.SPREAD_HEIGHT)
