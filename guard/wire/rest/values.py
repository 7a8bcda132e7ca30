"""JSON arrays to raw tensors. A value that its data type can't hold is refused, never rounded into it.

Source: Open Inference Protocol, "Tensor Data" (nested or flat arrays in row-major order).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

from guard.datatypes import BYTES, WIRE_DTYPES
from guard.errors import MalformedRequest
from guard.wire.contents import MAX_RANK

BINARY_ONLY = frozenset({"FP16", "BF16"})
"""Data types that JSON has no form for: Triton takes and gives them in binary only."""

_LENGTH_PREFIX = struct.Struct("<I")


def to_raw(name: str, datatype: str, shape: Sequence[int], data: object) -> bytes:
    """The raw contents of the input `name`, whose `data` is given as JSON.

    Raises:
        MalformedRequest: it isn't an array of the right size, is ragged, or holds what the data type can't.
    """
    if datatype in BINARY_ONLY:
        raise MalformedRequest(f"input {name!r} is {datatype}, which JSON has no form for; send it in binary")
    values = _flat(name, data)
    if len(values) != math.prod(shape):
        raise MalformedRequest(
            f"input {name!r} of shape {list(shape)} takes {math.prod(shape)} values, its data has {len(values)}"
        )
    return _string_contents(name, values) if datatype == BYTES else _numeric_contents(name, datatype, values)


def prefixed(strings: Sequence[bytes]) -> bytes:
    """Raw contents of a BYTES tensor: each element behind its length."""
    return b"".join(chain.from_iterable((_LENGTH_PREFIX.pack(len(text)), text) for text in strings))


def _flat(name: str, data: object) -> list[Any]:
    """The elements of an array, nested or flat, all of whose rows are equally long."""
    if not isinstance(data, list):
        raise MalformedRequest(f"the data of input {name!r} is no JSON array")
    level = data
    for _ in range(MAX_RANK):
        kinds = set(map(type, level))
        if list not in kinds:
            return level
        if kinds != {list} or len(set(map(len, level))) > 1:
            raise MalformedRequest(f"the data of input {name!r} is ragged: its rows differ in length or depth")
        level = list(chain.from_iterable(level))
    raise MalformedRequest(f"the data of input {name!r} is nested deeper than {MAX_RANK} dimensions")


def _string_contents(name: str, values: list[Any]) -> bytes:
    _check_kinds(name, BYTES, values, {str}, "strings")
    try:
        return prefixed([value.encode() for value in values])
    except UnicodeEncodeError as error:
        raise MalformedRequest(f"input {name!r} holds text that has no UTF-8 form; send it in binary") from error


def _numeric_contents(name: str, datatype: str, values: list[Any]) -> bytes:
    dtype = WIRE_DTYPES[datatype]
    match dtype.kind:
        case "b":
            _check_kinds(name, datatype, values, {bool}, "true and false")
        case "f":
            _check_kinds(name, datatype, values, {int, float}, "numbers")
        case _:
            _check_kinds(name, datatype, values, {int}, "whole numbers")
    try:
        with np.errstate(over="raise"):
            array = np.array(values, np.float64 if dtype.kind == "f" else dtype).astype(dtype)
    except (OverflowError, FloatingPointError) as error:
        raise _out_of_range(name, datatype) from error
    if dtype.kind == "f" and not np.isfinite(array).all():
        raise _out_of_range(name, datatype)  # JSON has no infinity: it was a number beyond float64
    return array.tobytes()


def _check_kinds(name: str, datatype: str, values: list[Any], allowed: set[type], what: str) -> None:
    if not set(map(type, values)) <= allowed:  # exactly these: to Python, true is a number
        raise MalformedRequest(f"input {name!r} is {datatype}, and its data holds other values than {what}")


def _out_of_range(name: str, datatype: str) -> MalformedRequest:
    return MalformedRequest(f"input {name!r} holds a number out of the range of {datatype}")
