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
    return _as_image(_values(tensor, content), told["input"], item)


def _values(tensor: Mapping[str, Any], content: npt.NDArray[np.uint8]) -> Float32Array:
    datatype = tensor["datatype"]
    values = content.view(WIRE_DTYPES[datatype]).reshape(tensor["shape"])
    return bf16_to_float32(values.astype(np.uint16)) if datatype == BF16 else values.astype(np.float32)


def _as_image(values: Float32Array, model: Mapping[str, Any], item: int) -> Float32Array:
    items = values if values.ndim > len(model["shape"]) else values[None]
    if not is_image(items.shape[1:], Layout(model["layout"]) if model["layout"] else None):
        raise DataError(f"the input is no image, its shape being {list(items.shape[1:])}")
    if item >= len(items):
        raise DataError(f"the request holds {len(items)} items, counted from 0; there is no item {item}")
    low, high = model["bounds"]
    channels = planes(items[item], Layout(model["layout"]) if model["layout"] else None)
    shown = np.clip((channels - low) / max(high - low, 1e-12), 0, 1)
    return shown[0] if len(shown) < _COLOURS else np.moveaxis(shown[:_COLOURS], 0, -1)


def _decoded(texts: list[bytes], item: int) -> Float32Array:
    if item >= len(texts):
        raise DataError(f"the request holds {len(texts)} items, counted from 0; there is no item {item}")
    decoded = cv2.imdecode(np.frombuffer(texts[item], np.uint8), cv2.IMREAD_COLOR)
    if decoded is None:
        raise DataError(f"item {item} is no image that can be read")
    return cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB).astype(np.float32) / np.float32(255)
