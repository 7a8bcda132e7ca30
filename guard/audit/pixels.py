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
from guard.plural import counted
from guard.values import Float32Array, Layout

_COLOURS = 3


def input_of(folder: Path, event: Mapping[str, Any], item: int, keys: list[bytes]) -> bytes | Float32Array:
    """An item of a record's input as it came: an encoded image, or values as its model takes them.

    Raises:
        DataError: it was not kept, or can't be opened.
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
        texts = texts_of(content, BYTES)
        _check(item, len(texts))
        return texts[item]
    return _item(content, item, tensor["datatype"], tuple(tensor["shape"]), len(told["input"]["shape"]))


def pixels_of(event: Mapping[str, Any], came: bytes | Float32Array) -> Float32Array:
    """An item of a record's input as (height, width) or (height, width, 3), in 0 to 1.

    Raises:
        DataError: it is no image.
    """
    if isinstance(came, bytes):
        return _decoded(came)
    model = event["data"]["unmapped"]["guard"]["input"]
    return _shown(came, Layout(model["layout"]) if model["layout"] else None, tuple(model["bounds"]))


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
    return _shown(_item(content, item, datatype, shape, len(model_shape)), layout, bounds)


def _item(content: npt.NDArray[np.uint8], item: int, datatype: str, shape: tuple[int, ...], rank: int) -> Float32Array:
    values = content.view(WIRE_DTYPES[datatype]).reshape(shape)
    items = values if values.ndim > rank else values[None]
    _check(item, len(items))
    return bf16_to_float32(items[item].astype(np.uint16)) if datatype == BF16 else items[item].astype(np.float32)


def _check(item: int, items: int) -> None:
    if item >= items:
        raise DataError(f"the request holds {counted(items, 'item')}, counted from 0; there is no item {item}")


def _shown(values: Float32Array, layout: Layout | None, bounds: tuple[float, float]) -> Float32Array:
    if not is_image(values.shape, layout):
        raise DataError(f"the input is no image, its shape being {list(values.shape)}")
    low, high = bounds
    shown = np.clip((planes(values, layout) - low) / max(high - low, 1e-12), 0, 1)
    return shown[0] if len(shown) < _COLOURS else np.moveaxis(shown[:_COLOURS], 0, -1)


def _decoded(encoded: bytes) -> Float32Array:
    decoded = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)
    if decoded is None:
        raise DataError("the input is no image that can be read")
    return cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB).astype(np.float32) / np.float32(255)
