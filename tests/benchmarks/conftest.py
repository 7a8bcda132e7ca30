"""What benchmarks are run on in small."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks import data, models
from benchmarks.engine.subject import Subject, subject


@pytest.fixture(scope="session")
def lenet() -> Subject:
    """LeNet-5 and coarse random images, some of them moved by an attack."""
    pixels = np.kron(np.random.default_rng(0).random((40, 1, 7, 7), np.float32), np.ones((1, 1, 4, 4), np.float32))
    source = data.Images(pixels, np.zeros(len(pixels), np.int64))
    found = subject("LeNet-5", models.lenet5(), models.LENET5_SHAPE, source, 40, epsilon=0.2, seed=0)
    return replace(found, attacked=pixels[:5]) if not len(found.attacked) else found
