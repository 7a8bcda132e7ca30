"""What an attack did to one image, to be looked at."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from guard.audit.tiles import tiles_of
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


def heat_of(occlusion: Occlusion) -> Heat:
    """Of what a detector found."""
    tiles = tiles_of(occlusion.heat, occlusion.tops, occlusion.lefts, occlusion.hottest[2:])
    rows, columns = np.diff(tiles.rows), np.diff(tiles.columns)
    pixels = tiles.values.repeat(rows, axis=0).repeat(columns, axis=1)
    return Heat(pixels.astype(np.float32), occlusion.hottest)


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
