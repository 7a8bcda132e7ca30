"""Tensors of the v2 protocol to numpy arrays and back, in full: servers, unlike screening, need every data type.

Source: Open Inference Protocol, "Tensor Data Types" and "Inference Request"; errors are worded as Triton words them.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from guard.datatypes import BYTES, WIRE_DTYPES, byte_size
from guard.errors import MalformedRequest
from guard.pb.grpc_service_pb2 import ModelInferRequest

_LENGTH_PREFIX = struct.Struct("<I")

# The field of InferTensorContents that holds a data type, and the type of its elements.
_TYPED: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "BOOL": ("bool_contents", "?"),
        "INT8": ("int_contents", "i4"),
        "INT16": ("int_contents", "i4"),
        "INT32": ("int_contents", "i4"),
        "INT64": ("int64_contents", "i8"),
        "UINT8": ("uint_contents", "u4"),
        "UINT16": ("uint_contents", "u4"),
        "UINT32": ("uint_contents", "u4"),
        "UINT64": ("uint64_contents", "u8"),
        "FP32": ("fp32_contents", "f4"),
        "FP64": ("fp64_contents", "f8"),
        BYTES: ("bytes_contents", "O"),
    }
)


def from_raw(tensor: ModelInferRequest.InferInputTensor, raw: bytes) -> npt.NDArray[np.generic]:
    """The array that raw contents hold; BYTES becomes an object array of str.

    Raises:
        MalformedRequest: the shape disagrees with the number of bytes, or BYTES are no text.
    """
    shape = tuple(tensor.shape)
    if tensor.datatype == BYTES:
        elements = list(_split(tensor.name, raw))
        _check_size(tensor, "elements", math.prod(shape), len(elements))
        return _texts(tensor.name, elements).reshape(shape)
    _check_size(tensor, "bytes", byte_size(tensor.datatype, shape), len(raw))
    if tensor.datatype == "BOOL":  # any byte but 0 is true, whereas numpy's own bool leaves bytes above 1 undefined
        truth: npt.NDArray[np.bool_] = np.frombuffer(raw, np.uint8) != 0
        return truth.reshape(shape)
    return np.frombuffer(raw, WIRE_DTYPES[tensor.datatype]).reshape(shape)


def from_typed(tensor: ModelInferRequest.InferInputTensor) -> npt.NDArray[np.generic]:
    """The array that typed contents hold. Of a value too large for INT8, INT16, UINT8 or UINT16 the low bytes count.

    Raises:
        MalformedRequest: the contents are absent, in the wrong field, or disagree with the shape, or BYTES are no text.
    """
    if not tensor.HasField("contents"):
        raise MalformedRequest(f"unable to find data for input tensor {tensor.name!r} in request.")
    if tensor.datatype not in _TYPED:
        raise MalformedRequest(f"input {tensor.name!r} is {tensor.datatype}, which must be sent as raw_input_contents")
    field, wide = _TYPED[tensor.datatype]
    if any(other.name != field for other, _ in tensor.contents.ListFields()):
        raise MalformedRequest(
            f"unexpected explicit tensor data for input tensor {tensor.name!r}, "
            f"expected datatype {tensor.datatype!r} in {field}"
        )
    values = getattr(tensor.contents, field)
    _check_size(tensor, "elements", math.prod(tensor.shape), len(values))
    if tensor.datatype == BYTES:
        return _texts(tensor.name, values).reshape(tuple(tensor.shape))
    array = np.fromiter(values, np.dtype(wide), len(values)).astype(WIRE_DTYPES[tensor.datatype])
    return array.reshape(tuple(tensor.shape))


def to_raw(datatype: str, values: npt.NDArray[np.generic]) -> bytes:
    """Raw contents of an array: little-endian, BYTES length-prefixed."""
    if datatype == BYTES:
        encoded = [str(text).encode() for text in values.ravel()]
        return b"".join(_LENGTH_PREFIX.pack(len(element)) + element for element in encoded)
    return values.astype(WIRE_DTYPES[datatype], copy=False).tobytes()


def _texts(name: str, elements: Sequence[bytes]) -> npt.NDArray[np.object_]:
    try:
        return np.fromiter((element.decode() for element in elements), np.object_, len(elements))
    except UnicodeDecodeError as exc:
        raise MalformedRequest(f"input {name!r} holds bytes that are not UTF-8, and the strings of ONNX are") from exc


def _split(name: str, raw: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(raw):
        if at + _LENGTH_PREFIX.size > len(raw):
            raise MalformedRequest(f"incomplete string length indicator for inference input {name!r}")
        (length,) = _LENGTH_PREFIX.unpack_from(raw, at)
        at += _LENGTH_PREFIX.size
        if at + length > len(raw):
            raise MalformedRequest(f"incomplete string data for inference input {name!r}")
        yield raw[at : at + length]
        at += length


def _check_size(tensor: ModelInferRequest.InferInputTensor, unit: str, expected: int, got: int) -> None:
    if expected != got:
        kind = "byte size" if unit == "bytes" else "element count"
        raise MalformedRequest(f"input {kind} mismatch for input {tensor.name!r}. Expected {expected}, got {got}")
