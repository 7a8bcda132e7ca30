"""How many items are screened at once, where nobody says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from guard.model.backend import Backend, device_of
from guard.screen.batch import BATCHES
from guard.screen.trial import MODEL, Detector, SequentialTrial

LIVE_ITEMS: Final = 64
"""On a CPU, where few items at once mean short waits; also the least on a device."""


def live_items(configured: int | None, detectors: Iterable[Detector], backends: Mapping[str, Backend]) -> int:
    """What is configured; else on a device as many items as fill its batches with their first chunks, or the usual.

    The batch has to be chosen before.
    """
    if configured is not None:
        return configured
    backend = backends[MODEL]
    if device_of(backend).type == "cpu":
        return LIVE_ITEMS
    return max(LIVE_ITEMS, filling(backend.preferred_batch, detectors))


def filling(batch: int, detectors: Iterable[Detector]) -> int:
    """Items whose first chunks fill all batches that an engine has of a replica."""
    return -(-BATCHES * batch // _smallest_first_chunk(detectors))


def _smallest_first_chunk(detectors: Iterable[Detector]) -> int:
    """Of the sequential tests: an item in one asks for so many copies at least. Where there is none, for one."""
    opened = [detector.open() for detector in detectors]
    return min((trial.wanted for trial in opened if isinstance(trial, SequentialTrial)), default=1)
