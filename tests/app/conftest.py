"""An event loop, and a profile of the digits model on disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from guard.profile import store
from tests.support.loop import LoopThread
from tests.support.profiles import digits_profile


@pytest.fixture(scope="module")
def loop() -> Iterator[LoopThread]:
    """Where the servers of this module run."""
    with LoopThread() as thread:
        yield thread


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A profile of the digits model on disk."""
    directory = tmp_path_factory.mktemp("profile")
    store.save(digits_profile(), directory)
    return directory
