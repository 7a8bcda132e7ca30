"""One request's input tensor to the array that detectors see."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from guard.datatypes import BF16, WIRE_DTYPES, bf16_to_float32, byte_size
from guard.errors import MalformedRequest, NonFiniteInput, OtherShape
from guard.values import Float32Array, InferRequest, ModelInfo, WireTensor


def decode(request: InferRequest, info: ModelInfo) -> Float32Array:
    """The items of a request, as float32 of shape (items, *info.shape), in the units the model takes.

    A raw FP32 tensor is returned as a read-only view on the message; it may be unaligned, so copy it before handing
    its address to native code. Every other data type is converted.

    Raises:
        MalformedRequest: the request does not hold exactly the one input that `info` describes, with the right name,
            data type, shape and number of values.
        NonFiniteInput: an item holds NaN or infinity, or an FP64 value that float32 can't hold.
        OtherShape: the model takes items of that shape, and the profile is of another.
    """
    tensor = _only_input(request, info)
    items = _count_items(tensor, info)
    _check_values(tensor)
    shape = tensor.shape[1:] if info.batched else tensor.shape
    if shape != info.shape:
        raise OtherShape(
            f"input {tensor.name!r} of model {info.name!r} was calibrated with items of shape {list(info.shape)}, "
            f"the request has {list(shape)}",
            items,
        )
    values = _values(tensor).reshape(items, *info.shape)
    _refuse_non_finite(values)
    return values


def _only_input(request: InferRequest, info: ModelInfo) -> WireTensor:
    if len(request.inputs) != 1 or request.inputs[0].name != info.input_name:
        names = ", ".join(repr(tensor.name) for tensor in request.inputs[:8]) or "none"
        raise MalformedRequest(
            f"model {info.name!r} takes exactly one input, named {info.input_name!r}; the request has: {names}"
        )
    tensor = request.inputs[0]
    if tensor.datatype != info.datatype:
        raise MalformedRequest(
            f"input {tensor.name!r} of model {info.name!r} must be {info.datatype}, the request says {tensor.datatype}"
        )
    return tensor


def _count_items(tensor: WireTensor, info: ModelInfo) -> int:
    """Items in the tensor, once its shape is known to agree with the model."""
    items, item_shape = (tensor.shape[0], tensor.shape[1:]) if info.batched and tensor.shape else (1, tensor.shape)
    if not _takes(info, item_shape) or (info.batched and not tensor.shape):
        dims = ["any" if axis in info.free else str(dim) for axis, dim in enumerate(info.shape)]
        expected = (["n"] if info.batched else []) + dims
        raise MalformedRequest(
            f"input {tensor.name!r} of model {info.name!r} must have shape [{', '.join(expected)}], "
            f"the request says {list(tensor.shape)}"
        )
    if items < 1:
        raise MalformedRequest(f"input {tensor.name!r} has a batch of {items} items; send at least one")
    return items


def _takes(info: ModelInfo, shape: tuple[int, ...]) -> bool:
    """Whether the model takes items of this shape."""
    return len(shape) == len(info.shape) and all(
        dim == known or (axis in info.free and dim > 0)
        for axis, (dim, known) in enumerate(zip(shape, info.shape, strict=True))
    )


def _check_values(tensor: WireTensor) -> None:
    """Raises MalformedRequest unless there are as many values as the shape says."""
    if tensor.raw is not None and tensor.raw.nbytes != byte_size(tensor.datatype, tensor.shape):
        raise MalformedRequest(
            f"input {tensor.name!r} of shape {list(tensor.shape)} takes {byte_size(tensor.datatype, tensor.shape)} "
            f"bytes as {tensor.datatype}, the request holds {tensor.raw.nbytes}"
        )
    if tensor.typed is not None and tensor.typed.size != math.prod(tensor.shape):
        raise MalformedRequest(
            f"input {tensor.name!r} of shape {list(tensor.shape)} takes {math.prod(tensor.shape)} values, "
            f"the request holds {tensor.typed.size}"
        )


def _values(tensor: WireTensor) -> Float32Array:
    """The tensor's values, flat, as float32."""
    stored: npt.NDArray[np.generic]
    if tensor.typed is not None:
        stored = tensor.typed.reshape(-1)
    elif tensor.raw is None:
        raise MalformedRequest(f"input {tensor.name!r} holds no values")
    elif tensor.datatype == "BOOL":
        # Any byte but 0 is true, whereas numpy's own bool leaves bytes above 1 undefined.
        stored = np.frombuffer(tensor.raw, np.uint8) != 0
    else:
        stored = np.frombuffer(tensor.raw, WIRE_DTYPES[tensor.datatype])
    if tensor.datatype == BF16:
        return bf16_to_float32(stored.astype(np.uint16, copy=False))
    with np.errstate(over="ignore"):  # an FP64 too large for float32 becomes infinity, which is refused next
        return stored.astype(np.float32, copy=False)


def _refuse_non_finite(values: Float32Array) -> None:
    finite = np.isfinite(values)
    if finite.all():
        return
    items = len(values)
    bad = np.flatnonzero(~finite.reshape(items, -1).all(axis=1))
    listed = ", ".join(str(index) for index in bad[:16]) + (", ..." if len(bad) > 16 else "")  # noqa: PLR2004 - a cap
    raise NonFiniteInput(
        f"NaN, infinity or a value beyond float32 at item {listed} of {items} (counted from 0); "
        "Guard screens finite values only"
    )
