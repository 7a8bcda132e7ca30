"""An item of a request as a small picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np

from guard.audit.finding import pieces
from guard.audit.pixels import item_pixels
from guard.audit.sighting import Sighting
from guard.datatypes import BYTES
from guard.decode.encoded import encoded_images
from guard.decode.images import decode_image
from guard.errors import DataError, RequestError
from guard.values import Float32Array, Layout

LONGEST_PX: Final = 192
_LEVELS = 255


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A picture as PNG, no larger than a thumbnail; `height` and `width` are its own, in pixels."""

    png: bytes
    height: int
    width: int


def thumbnail_of(sighting: Sighting, item: int, max_image_pixels: int) -> Thumbnail | None:
    """An item's picture; None where it is no image."""
    try:
        image = _pixels(sighting, item, max_image_pixels)
    except (DataError, RequestError):
        return None
    scale = LONGEST_PX / max(image.shape[:2])
    if scale < 1:
        size = max(round(image.shape[1] * scale), 1), max(round(image.shape[0] * scale), 1)
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.float32)
    eight_bits = np.rint(image * _LEVELS).astype(np.uint8)
    colours = eight_bits if eight_bits.ndim == 2 else cv2.cvtColor(eight_bits, cv2.COLOR_RGB2BGR)  # noqa: PLR2004 - grey
    made, png = cv2.imencode(".png", colours)
    return Thumbnail(png.tobytes(), image.shape[0], image.shape[1]) if made else None


def _pixels(sighting: Sighting, item: int, max_image_pixels: int) -> Float32Array:
    """An item as (height, width) or (height, width, 3), in 0 to 1.

    Raises:
        DataError: it is no image.
        RequestError: it can't be decoded.
    """
    provenance = sighting.provenance
    tensor = next((each for each in sighting.request.inputs if each.name == provenance.input_name), None)
    if tensor is None:
        raise DataError("the request has no such input")
    if tensor.datatype == BYTES:
        encoded = encoded_images(sighting.request, tensor.name)[item]
        decoded = decode_image(encoded, colour="RGB", orient=True, max_pixels=max_image_pixels)
        decoded.thumbnail((LONGEST_PX, LONGEST_PX))
        return np.asarray(decoded, np.float32) / np.float32(_LEVELS)
    raw = tensor.raw if tensor.raw is not None else b"".join(pieces(tensor))
    layout = Layout(provenance.layout) if provenance.layout else None
    return item_pixels(
        np.frombuffer(raw, np.uint8),
        item,
        datatype=tensor.datatype,
        shape=tensor.shape,
        model_shape=provenance.shape,
        layout=layout,
        bounds=provenance.bounds,
    )
