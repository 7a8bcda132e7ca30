"""A captured item as something to look at."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from guard.audit.captures import texts_of, unseal
from guard.datatypes import BF16, BYTES, WIRE_DTYPES, bf16_to_float32
from guard.errors import DataError
from guard.layout import is_image, planes
from guard.values import Float32Array, Layout

_GREY = 1
_COLOURS = 3


def input_of(folder: Path, event: Mapping[str, Any], item: int, keys: list[bytes]) -> Float32Array:
    """An item of a record's input as (height, width) or (height, width, 3), in 0 to 1.

    Raises:
        DataError: it was not kept, can't be opened, or is no image.
    """
    if "dataref" not in event:
        raise DataError(
            f"the input of {event['id']} was not kept: audit.captures has no key_file, it was simply let through, or "
            "it is too large"
        )
    told = event["data"]["unmapped"]["guard"]
    names = [tensor["name"] for tensor in told["tensors"]]
    wanted = told["input"]["name"]
    at = names.index(wanted) if wanted in names else 0
    tensor = told["tensors"][at]
    content = unseal(event["id"], folder / event["dataref"], keys)[at]
    if tensor["datatype"] == BYTES:
        return _decoded(texts_of(content, BYTES), item)
    model = told["input"]
    return item_pixels(
        content,
        item,
        datatype=tensor["datatype"],
        shape=tuple(tensor["shape"]),
        model_shape=tuple(model["shape"]),
        layout=Layout(model["layout"]) if model["layout"] else None,
        bounds=tuple(model["bounds"]),
    )


def item_pixels(
    content: npt.NDArray[np.uint8],
    item: int,
    *,
    datatype: str,
    shape: tuple[int, ...],
    model_shape: tuple[int, ...],
    layout: Layout | None,
    bounds: tuple[float, float],
) -> Float32Array:
    """An item of a tensor's bytes as (height, width) or (height, width, 3), in 0 to 1. It alone is copied.

    `shape` and `datatype` are the tensor's; what its model takes has `model_shape`, `layout` and `bounds`.

    Raises:
        DataError: there is no such item, or it is no image.
    """
    values = content.view(WIRE_DTYPES[datatype]).reshape(shape)
    items = values if values.ndim > len(model_shape) else values[None]
    if not is_image(items.shape[1:], layout):
        raise DataError(f"the input is no image, its shape being {list(items.shape[1:])}")
    if item >= len(items):
        raise DataError(f"the request holds {len(items)} items, counted from 0; there is no item {item}")
    chosen = items[item]
    found = bf16_to_float32(chosen.astype(np.uint16)) if datatype == BF16 else chosen.astype(np.float32)
    low, high = bounds
    channels = planes(found, layout)
    shown = np.clip((channels - low) / max(high - low, 1e-12), 0, 1)
    return shown[0] if len(shown) < _COLOURS else np.moveaxis(shown[:_COLOURS], 0, -1)


def _decoded(texts: list[bytes], item: int) -> Float32Array:
    if item >= len(texts):
        raise DataError(f"the request holds {len(texts)} items, counted from 0; there is no item {item}")
    decoded = cv2.imdecode(np.frombuffer(texts[item], np.uint8), cv2.IMREAD_COLOR)
    if decoded is None:
        raise DataError(f"item {item} is no image that can be read")
    return cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB).astype(np.float32) / np.float32(255)
