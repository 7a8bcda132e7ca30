"""A request's encoded images, one an item."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from guard.datatypes import BYTES
from guard.errors import MalformedRequest
from guard.plural import counted
from guard.values import InferRequest, WireTensor

_LENGTH = struct.Struct("<I")


def encoded_images(request: InferRequest, name: str) -> tuple[bytes, ...]:
    """The images in the one input of a request, which is called `name` and has one element an item.

    Raises:
        MalformedRequest: the request holds something else.
    """
    if len(request.inputs) != 1 or request.inputs[0].name != name:
        names = ", ".join(repr(tensor.name) for tensor in request.inputs[:8]) or "none"
        raise MalformedRequest(
            f"model {request.model_name!r} takes exactly one input, named {name!r}; the request has: {names}"
        )
    tensor = request.inputs[0]
    if tensor.datatype != BYTES:
        raise MalformedRequest(
            f"input {name!r} of model {request.model_name!r} must be {BYTES} with one encoded image an item, "
            f"the request says {tensor.datatype}"
        )
    if not tensor.shape or tensor.shape[0] < 1 or any(dim != 1 for dim in tensor.shape[1:]):
        raise MalformedRequest(
            f"input {name!r} of model {request.model_name!r} must have shape [n] or [n, 1], one image an item, "
            f"the request says {list(tensor.shape)}"
        )
    images = tuple(_elements(tensor))
    if len(images) != tensor.shape[0]:
        raise MalformedRequest(
            f"input {name!r} of shape {list(tensor.shape)} takes {counted(tensor.shape[0], 'image')}, the request "
            f"holds {len(images)}"
        )
    return images


def _elements(tensor: WireTensor) -> Iterator[bytes]:
    if tensor.typed is not None:
        yield from (bytes(element) for element in tensor.typed.reshape(-1).tolist())
        return
    raw, at = tensor.raw or memoryview(b""), 0
    while at < len(raw):
        if at + _LENGTH.size > len(raw):
            raise MalformedRequest(f"{BYTES} input {tensor.name!r} ends within the length of an element")
        (length,) = _LENGTH.unpack_from(raw, at)
        at += _LENGTH.size + length
        if at > len(raw):
            raise MalformedRequest(f"{BYTES} input {tensor.name!r} ends within an element")
        yield bytes(raw[at - length : at])
