"""The report's example images: before and after an attack, what it changed, and what the label hangs on since."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np

from guard.offline.evaluate.example import Example, Heat
from guard.offline.view import Bytes

_SIDE_PX: Final = 144
_CHANNELS: Final = (1, 3)

# As the console draws a heat map; OpenCV has blue first.
_HEAT: Final = (0, 61, 255)
_HOTTEST: Final = (215, 200, 0)
_OPAQUE: Final = 0.85
_DIMMED: Final = 0.6
"""Of the image below: what is white in it must not look hot."""


@dataclass(frozen=True, slots=True)
class Pictures:
    """Data URLs of PNGs. `heat` is None where nothing was covered; `where` then says nothing, too."""

    clean: str
    made: str
    change: str
    heat: str | None
    where: str


def pictures(example: Example) -> Pictures:
    """Of an example. The change is drawn about grey, its largest value at full strength."""
    change = example.made.astype(np.float32) - example.clean.astype(np.float32)
    largest = max(float(np.abs(change).max()), 1.0)
    shown = np.rint(127.5 + 127.5 * change / largest).astype(np.uint8)
    heat = example.heat
    return Pictures(
        clean=_url(_enlarged(example.clean)),
        made=_url(_enlarged(example.made)),
        change=_url(_enlarged(shown)),
        heat=None if heat is None else _url(_heated(example.made, heat)),
        where="" if heat is None else _where(heat),
    )


def _where(heat: Heat) -> str:
    """The hottest window in words."""
    top, left, height, width = heat.hottest
    return f"rows {top} to {top + height - 1}, columns {left} to {left + width - 1}"


def _heated(image: Bytes, heat: Heat) -> Bytes:
    """The image in dim grey; colour where covering it takes more from the label than elsewhere, a frame where most."""
    picture = _enlarged(image)
    times = len(picture) // len(heat.pixels)
    base = _DIMMED * picture.mean(axis=2, keepdims=True)
    share = np.maximum(heat.pixels, 0) / (max(float(heat.pixels.max()), 0) or 1)
    alpha = _OPAQUE * np.kron(share, np.ones((times, times)))[..., None]
    shown: Bytes = np.rint(base + alpha * (np.array(_HEAT) - base)).astype(np.uint8)
    top, left, tall, wide = (times * part for part in heat.hottest)
    line = max(1, round(max(picture.shape) / _SIDE_PX))
    cv2.rectangle(shown, (left, top), (left + wide - 1, top + tall - 1), _HOTTEST, thickness=line)
    return shown


def _enlarged(image: Bytes) -> Bytes:
    """An image (channels, height, width), or numbers as a strip, as OpenCV has it; small ones by a whole factor."""
    if image.ndim == 1:
        image = image[None, None]
    if image.shape[0] not in _CHANNELS:
        image = image[:1]
    last = np.ascontiguousarray(np.moveaxis(image, 0, -1)[..., ::-1])  # OpenCV has blue first
    times = max(1, _SIDE_PX // max(last.shape[:2]))
    return np.repeat(np.repeat(last, times, axis=0), times, axis=1)


def _url(image: Bytes) -> str:
    _, encoded = cv2.imencode(".png", image)
    return f"data:image/png;base64,{base64.b64encode(encoded.tobytes()).decode()}"
