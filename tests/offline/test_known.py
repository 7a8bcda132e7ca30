"""Attacks that a running Guard tests itself with, where there are any."""

from __future__ import annotations

import numpy as np
from structlog.testing import capture_logs

from guard.offline.known import most_striking
from tests.support.profiles import digits_profile


def test_none_is_striking() -> None:
    """Attacks that score as benign inputs do can't be told from them: none is kept, and a warning says so."""
    profile = digits_profile()
    inputs = np.zeros((len(profile.calibration), *profile.model.shape), np.float32)
    with capture_logs() as logs:
        kept = most_striking(profile, {"iterated": [inputs]}, {"iterated": [profile.calibration]})
    assert kept.shape == (0, *profile.model.shape)
    assert ["test itself" in each["event"] for each in logs] == [True]
