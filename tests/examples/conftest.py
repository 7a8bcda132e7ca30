"""The examples' folder as their first run leaves it, without the minutes that takes."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from guard.profile import store
from tests.support.digits import DigitsData, attack, trained_network
from tests.support.profiles import plain_profile


@pytest.fixture(scope="session")
def folder(digits_onnx: Path, digits_data: DigitsData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the digits classifier of the tests, a short profile of it, and 20 samples of each kind."""
    made: Path = tmp_path_factory.mktemp("examples") / "guard-example"
    made.mkdir()
    shutil.copy(digits_onnx, made / "digits.onnx")
    store.save(plain_profile(), made / "profile")
    images, labels = (part[:20] for part in digits_data.test)
    halfway = images + 0.5 * (attack(trained_network(), images, labels) - images)
    np.savez(made / "samples.npz", clean=images, attacked=halfway.astype(np.float32))
    return made
