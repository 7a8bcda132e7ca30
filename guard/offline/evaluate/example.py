"""What an attack did to one image, to be looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from guard.offline.view import Bytes
from guard.screen.occlusion import Window
from guard.values import Float32Array, Occlusion


@dataclass(frozen=True, slots=True)
class Heat:
    """What covering parts of an image shows: the part that holds most of the label's margin, and where it is held.

    Each of `pixels` (height, width) is the mean over the parts that cover it, in logits beyond a typical part.
    """

    pixels: Float32Array
    hottest: Window


def heat_of(occlusion: Occlusion, windows: Sequence[Window], image_px: tuple[int, int]) -> Heat:
    """Of what a detector found with these windows.

    They overlap: were they drawn side by side, as a grid, they would not be where they were.
    """
    total, covered = np.zeros(image_px, np.float32), np.zeros(image_px, np.float32)
    for value, (top, left, height, width) in zip(chain.from_iterable(occlusion.heat), windows, strict=True):
        part = slice(top, top + height), slice(left, left + width)
        total[part] += value
        covered[part] += 1
    return Heat(total / covered, occlusion.hottest)


@dataclass(frozen=True, slots=True)
class Example:
    """A clean image and what an attack made of it, in 8 bits, their labels, and what Guard said at the highest rate.

    `heat` is of what the attack made, where the profile has masks.
    """

    attack: str
    clean: Bytes
    made: Bytes
    was: int
    became: int
    flagged: bool
    p_value: float
    accuser: str
    heat: Heat | None = None
