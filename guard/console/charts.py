"""Where the shapes of charts lie: numbers to rectangles, for SVG that the templates write."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from guard.observe.families import P_VALUE_BUCKETS

RATE_WIDTH: Final = 600.0
RATE_HEIGHT: Final = 140.0
SPREAD_WIDTH: Final = 360.0
SPREAD_HEIGHT: Final = 150.0
SMALL: Final = 0.05
"""p-values that are small: more of them than expected are what attacks look like, or drift."""

_ROUND = (1.0, 2.0, 5.0, 10.0)


@dataclass(frozen=True, slots=True)
class Rect:
    """A rectangle, `kind` naming what it stands for."""

    x: float
    y: float
    width: float
    height: float
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Rates:
    """Stacked bars, one for each look, the newest on the right. `top` is what the upper edge means, a second."""

    rects: tuple[Rect, ...]
    top: float


@dataclass(frozen=True, slots=True)
class Spread:
    """How p-values lie: a bar for each range, and beside it the share that benign inputs have there.

    `observed` and `expected` are shares of `items`; `small` are those at or below SMALL. Bars of small ones are of the
    kind "over" where they are more than chance allows.
    """

    labels: tuple[str, ...]
    observed: tuple[float, ...]
    expected: tuple[float, ...]
    bars: tuple[Rect, ...]
    line: str
    items: int
    small: float
    expected_small: float
    top: float


def rates(series: Mapping[str, Sequence[float]], places: int) -> Rates:
    """Bars of several series, stacked in their order, each series of at most so many numbers."""
    length = max((len(each) for each in series.values()), default=0)
    sums = [sum(each[i] for each in series.values()) for i in range(length)]
    top, wide = round_up(max(sums, default=0.0)), RATE_WIDTH / places
    rects = []
    for i in range(length):
        y = RATE_HEIGHT
        for kind, each in series.items():
            tall = each[i] / top * RATE_HEIGHT
            if tall > 0:
                y -= tall
                x = RATE_WIDTH - (length - i) * wide
                rects.append(Rect(round(x, 2), round(y, 2), round(wide * 0.82, 2), round(tall, 2), kind))
    return Rates(tuple(rects), top)


def spread(counts: Sequence[float], samples: int) -> Spread:
    """How p-values lie that were counted in the metric's buckets.

    Benign ones are multiples of 1 / (samples + 1), each as likely; with 0 samples, spread evenly.
    """
    counts = counts or (0.0,) * len(P_VALUE_BUCKETS)  # of a model that is new, none were
    items = sum(counts)
    observed = tuple(count / items if items else 0.0 for count in counts)
    up_to = [0.0, *(_expected(end, samples) for end in P_VALUE_BUCKETS)]
    expected = tuple(after - before for before, after in pairwise(up_to))
    ends = [f"{end:g}".removeprefix("0") for end in P_VALUE_BUCKETS]
    top = max(*observed, *expected, 0.05)
    step, low = SPREAD_WIDTH / len(ends), sum(end <= SMALL for end in P_VALUE_BUCKETS)
    bars, line = list[Rect](), ""
    for i, (seen, awaited) in enumerate(zip(observed, expected, strict=True)):
        y, tall = _standing(seen / top)
        kind = "over" if i < low and beyond_chance(seen, awaited, items) else ""
        bars.append(Rect(round(i * step + step * 0.14, 2), y, round(step * 0.72, 2), tall, kind))
        line += f"{'L' if line else 'M'}{i * step:g} {_standing(awaited / top)[0]:g}H{(i + 1) * step:g}"
    return Spread(tuple(ends), observed, expected, tuple(bars), line, int(items), sum(observed[:low]), up_to[low], top)


def beyond_chance(observed: float, expected: float, items: float) -> bool:
    """Whether a share is larger than three standard deviations of the expected one leave room for."""
    return items > 0 and observed > expected + (3 * math.sqrt(expected * (1 - expected) * items) + 1) / items


def _standing(share: float) -> tuple[float, float]:
    """Upper edge and height of a bar that stands on the ground."""
    tall = round(share * SPREAD_HEIGHT, 2)
    return round(SPREAD_HEIGHT - tall, 2), tall


def _expected(end: float, samples: int) -> float:
    return math.floor(end * (samples + 1) + 1e-9) / (samples + 1) if samples else end


def round_up(value: float) -> float:
    """The next round number."""
    if value <= 1:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(power * each for each in _ROUND if power * each >= value)
