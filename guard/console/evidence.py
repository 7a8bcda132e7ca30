"""What detectors said of a flagged item, as the templates show it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np

from guard.audit.text import is_beyond, words_of
from guard.audit.tiles import tiles_of
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
    """What a detector said: `bar` is its surprise, of a hundred. `p` is its p-value in short, as far as it is known."""

    detector: str
    version: str
    words: str
    p: str
    share: float | None
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
            _short(each),
            each.get("share"),
            each["evaluations"],
            round(100 * _surprise(each.get("p_value")), 1),
            each.get("p_value") is not None and each["p_value"] <= _SURPRISING,
        )
        for each in seen.told["detectors"]
    ]


def _short(said: Mapping[str, Any]) -> str:
    """A p-value; no smaller than benign samples can tell; or nothing."""
    if said.get("p_value") is None:
        return ""
    return f"< 1/{said['samples']:,}" if is_beyond(said) else f"{said['p_value']:.3g}"


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
    height, width = seen.shape[:2] if seen.layout in _HEIGHT_FIRST else seen.shape[-2:]
    top, left, tall, wide = looked["hottest"]
    tiles = tiles_of(looked["heat"], looked["tops"], looked["lefts"], (tall, wide))
    high = float(np.nanmax(tiles.values, initial=0.0))

    def window(x: int, y: int, wide: int, tall: int, heat: float = 0.0) -> Window:
        shares = (x / width, y / height, wide / width, tall / height)
        left, top, across, down = (round(100 * share, 2) for share in shares)
        return Window(left, top, across, down, round(heat, 2))

    cells = tuple(
        window(x, y, right - x, bottom - y, float(value) / high)
        for row, (y, bottom) in zip(tiles.values, pairwise(tiles.rows), strict=True)
        for value, (x, right) in zip(row, pairwise(tiles.columns), strict=True)
        if value > 0
    )
    return Heat(cells, window(left, top, wide, tall))


def why_no_heat(seen: Seen) -> str:
    """Why an item has no heat map."""
    said = next((each for each in seen.told["detectors"] if each["detector"] == _OCCLUSION), None)
    if said is None:
        return "none: the profile has no occlusion"
    return "none: the verdict was certain before" if said["finding"] == "spared" else f"none: {words_of(said)}"
