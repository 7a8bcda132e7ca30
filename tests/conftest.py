"""Fixtures that tests of several parts share."""

from __future__ import annotations

import os
import random
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import structlog
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from tests.support.digits import DigitsData

# Before torch is imported. Threads that share a small network's work wait for each other at every step, and on cores
# that other processes use too that makes a training of ten seconds one of minutes.
os.environ.setdefault("OMP_NUM_THREADS", "1")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a shell's background: children would not hear it either
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples each time; and none fails that took .2 s, or long to be drawn, on a machine that stood still.
settings.register_profile("guard", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("guard")

_LONGEST = ("test_detection.py", "test_demo.py", "test_walk.py", "test_grpc.py", "test_http.py", "test_mistakes.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files of a minute and more come first: at the end one of two processes would wait for the other's."""
    items.sort(key=lambda item: _LONGEST.index(item.path.name) if item.path.name in _LONGEST else len(_LONGEST))


def pytest_runtest_setup() -> None:
    """Each test begins with the same dice and the same log: which files ran before it in its process is chance."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - what libraries draw from
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def digits_onnx() -> Path:
    """A small classifier of digits: input `input` FP32 [N, 1, 8, 8] in 0..1, output `logits` FP32 [N, 10]."""
    from tests.support import digits  # noqa: PLC0415 - torch takes seconds to import, and few tests need it

    return digits.onnx_file()


@pytest.fixture(scope="session")
def digits_data() -> DigitsData:
    """The digits: training, calibration and test parts."""
    from tests.support import digits  # noqa: PLC0415 - as digits_onnx

    return digits.load_data()
