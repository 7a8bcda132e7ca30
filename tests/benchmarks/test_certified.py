"""Certified accuracy, in small."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from benchmarks import models
from benchmarks.detection import certified
from benchmarks.detection.subjects import Split
from tests.support import digits


@cache
def rows() -> list[dict[str, Any]]:
    """Of the tests' digits, the last ten with labels that the model does not give them: two radii, two caps each."""
    images, truth = digits.load_data().test
    images, truth = images[:40], truth[:40].copy()
    truth[30:] = (truth[30:] + 1) % models.CLASSES
    model = certified.Model("digits", digits.trained_network(), images.shape[1:], Split(images, truth))
    return list(certified.measure(model, (0.1, 0.6)))


def test_what_is_wrong_is_not_counted() -> None:
    """A certificate of a wrong answer is no certified accuracy; a larger radius has fewer, a longer wait no fewer."""
    near, _, far, patient = rows()
    for row in rows():
        assert row["certified_and_right"]["count"] <= min(row["certified"]["count"], row["right"]["count"])
        assert row["mean_evaluations"] <= row["cap"] + 1
    assert near["certified"]["count"] > near["certified_and_right"]["count"] > 0
    assert near["certified"]["count"] > far["certified"]["count"]
    assert patient["cap"] == 10 * far["cap"]
    assert patient["certified"]["count"] >= far["certified"]["count"]


def test_the_table() -> None:
    """Each row shows its counts with their intervals."""
    count = rows()[0]["certified_and_right"]
    assert f"({count['count']} of 40, " in certified.markdown(rows())
    assert np.isclose(count["share"], count["count"] / 40)
