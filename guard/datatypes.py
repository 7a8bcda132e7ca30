"""The data types of the v2 inference protocol and how their bytes read as numpy arrays.

Source: Open Inference Protocol, "Tensor Data Types". BF16 has no numpy type, so its bytes are viewed as uint16.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

BYTES = "BYTES"
BF16 = "BF16"

# Little-endian on the wire whatever the machine.
WIRE_DTYPES: Mapping[str, np.dtype[np.generic]] = MappingProxyType(
    {
        "BOOL": np.dtype("?"),
        "UINT8": np.dtype("u1"),
        "UINT16": np.dtype("<u2"),
        "UINT32": np.dtype("<u4"),
        "UINT64": np.dtype("<u8"),
        "INT8": np.dtype("i1"),
        "INT16": np.dtype("<i2"),
        "INT32": np.dtype("<i4"),
        "INT64": np.dtype("<i8"),
        "FP16": np.dtype("<f2"),
        BF16: np.dtype("<u2"),
        "FP32": np.dtype("<f4"),
        "FP64": np.dtype("<f8"),
    }
)


def is_known(datatype: str) -> bool:
    """Whether the v2 protocol has this data type."""
    return datatype == BYTES or datatype in WIRE_DTYPES


def byte_size(datatype: str, shape: Sequence[int]) -> int:
    """Bytes that a raw tensor of a fixed-width data type takes. Python integers, so that no shape overflows."""
    return math.prod(shape) * WIRE_DTYPES[datatype].itemsize


def bf16_to_float32(bits: npt.NDArray[np.uint16]) -> npt.NDArray[np.float32]:
    """Widen bfloat16, given as its bits: they are the upper half of a float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def float32_to_bf16(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """Narrow to bfloat16 bits, rounding to nearest even."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounding = ((bits >> 16) & 1) + np.uint32(0x7FFF)
    return ((bits + rounding) >> 16).astype(np.uint16)


def to_array(datatype: str, values: npt.NDArray[np.float32]) -> npt.NDArray[np.generic]:
    """Float32 values as a numeric data type has them, BF16 as bits; integers are rounded and clipped to range."""
    if datatype == BF16:
        return float32_to_bf16(values)
    dtype = WIRE_DTYPES[datatype]
    if dtype.kind in "ui":
        limits = np.iinfo(dtype.str)
        return np.clip(np.rint(values), limits.min, limits.max).astype(dtype)
    return values.astype(dtype)


def to_wire(datatype: str, values: npt.NDArray[np.float32]) -> bytes:
    """Serialise float32 values as a raw tensor of a numeric data type."""
    return to_array(datatype, values).tobytes()


def held(datatype: str, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """What a numeric data type holds of float32 values: the values that a server reads of what a client sends."""
    if datatype == "FP32":
        return values
    stored = to_array(datatype, values)
    if datatype == BF16:
        return bf16_to_float32(stored.astype(np.uint16, copy=False))
    return stored.astype(np.float32)
