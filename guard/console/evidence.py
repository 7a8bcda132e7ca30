"""What detectors said of a flagged item, as the templates show it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from guard.audit.text import words_of
from guard.console.flagged import Seen

_LARGEST_SURPRISE: Final = 4.0
"""Minus the logarithm of the smallest p-value that bars tell apart."""

_SURPRISING: Final = 0.05
_OCCLUSION: Final = "occlusion"
_HEIGHT_FIRST: Final = frozenset({"hw", "hwc"})


@dataclass(frozen=True, slots=True)
class Window:
    """A part of a picture, in hundredths of its width and height. `heat` is between 0 and 1."""

    x: float
    y: float
    width: float
    height: float
    heat: float = 0.0


@dataclass(frozen=True, slots=True)
class Heat:
    """What an answer hangs on: how much of it parts of a picture hold beyond a typical one, and where that is most."""

    cells: tuple[Window, ...]
    hottest: Window


@dataclass(frozen=True, slots=True)
class Said:
    """What a detector said: `bar` is its surprise, of a hundred."""

    detector: str
    version: str
    words: str
    p_value: float | None
    score: float | None
    evaluations: int
    bar: float
    surprising: bool


def said_of(seen: Seen) -> list[Said]:
    """What each detector said of an item, in their order."""
    return [
        Said(
            each["detector"],
            each["version"],
            words_of(each),
            each.get("p_value"),
            each.get("score"),
            each["evaluations"],
            round(100 * _surprise(each.get("p_value")), 1),
            each.get("p_value") is not None and each["p_value"] <= _SURPRISING,
        )
        for each in seen.told["detectors"]
    ]


def _surprise(p_value: float | None) -> float:
    """Minus the logarithm of a p-value, as a share of the largest that is shown."""
    if p_value is None:
        return 0.0
    return min(-math.log10(max(p_value, 10**-_LARGEST_SURPRISE)) / _LARGEST_SURPRISE, 1.0)


def heat_of(seen: Seen) -> Heat | None:
    """The heat map of an item; None where the detector of occlusion did not look."""
    looked: Mapping[str, Any] | None = next((d["occlusion"] for d in seen.told["detectors"] if "occlusion" in d), None)
    if looked is None:
        return None
    rows = looked["heat"]
    high = max((value for row in rows for value in row if value is not None), default=0.0)
    tall, wide = 100 / len(rows), 100 / len(rows[0])
    cells = tuple(
        Window(*(round(part, 2) for part in (x * wide, y * tall, wide, tall, value / high)))
        for y, row in enumerate(rows)
        for x, value in enumerate(row)
        if value is not None and value > 0
    )
    height, width = seen.shape[:2] if seen.layout in _HEIGHT_FIRST else seen.shape[-2:]
    top, left, h, w = looked["hottest"]
    hottest = Window(*(round(100 * part, 2) for part in (left / width, top / height, w / width, h / height)))
    return Heat(cells, hottest)


def why_no_heat(seen: Seen) -> str:
    """Why an item has no heat map."""
    said = next((each for each in seen.told["detectors"] if each["detector"] == _OCCLUSION), None)
    if said is None:
        return "none: the profile has no occlusion"
    return "none: the verdict was certain before" if said["finding"] == "spared" else f"none: {words_of(said)}"
