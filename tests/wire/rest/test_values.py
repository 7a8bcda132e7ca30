"""JSON arrays to raw tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.datatypes import WIRE_DTYPES
from guard.errors import MalformedRequest
from guard.wire.rest.values import BINARY_ONLY, to_raw

INTEGERS = sorted(name for name, dtype in WIRE_DTYPES.items() if dtype.kind in "iu" and name not in BINARY_ONLY)


@pytest.mark.parametrize("datatype", INTEGERS)
def test_the_whole_range_of_integers(datatype: str) -> None:
    """The least and largest value of each type pass unchanged, and the next ones are refused, never wrapped."""
    limits = np.iinfo(WIRE_DTYPES[datatype].str)
    low, high = int(limits.min), int(limits.max)
    assert np.frombuffer(to_raw("x", datatype, [2], [low, high]), WIRE_DTYPES[datatype]).tolist() == [low, high]
    for beyond in (low - 1, high + 1, 10**30):
        with pytest.raises(MalformedRequest, match=f"out of the range of {datatype}"):
            to_raw("x", datatype, [1], [beyond])


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False)))
def test_floats(values: list[float]) -> None:
    """Numbers that are float32 pass to the bit; the others are rounded as any parser rounds them."""
    assert np.frombuffer(to_raw("x", "FP32", [len(values)], values), "<f4").tolist() == values
    assert np.frombuffer(to_raw("x", "FP64", [len(values)], values), "<f8").tolist() == values


@pytest.mark.parametrize(
    ("datatype", "value"),
    [("FP32", 3.5e38), ("FP32", -1e39), ("FP32", 10**39), ("FP64", float("inf")), ("FP64", 10**400)],
)
def test_floats_out_of_range(datatype: str, value: float) -> None:
    """What would become infinite is refused; `inf` is what Python makes of 1e999."""
    with pytest.raises(MalformedRequest, match=f"out of the range of {datatype}"):
        to_raw("x", datatype, [1], [value])


@pytest.mark.parametrize(
    ("shape", "data"), [([2, 2], [1, 2, 3, 4]), ([2, 2], [[1, 2], [3, 4]]), ([4, 1], [[[1], [2]], [[3], [4]]])]
)
def test_nesting(shape: list[int], data: list[Any]) -> None:
    """Arrays are flat or nested, in row-major order, as servers take them."""
    assert to_raw("x", "UINT8", shape, data) == b"\1\2\3\4"


def test_strings() -> None:
    """Strings go behind their length, as UTF-8."""
    assert to_raw("x", "BYTES", [2, 1], [["é"], [""]]) == b"\2\0\0\0\xc3\xa9\0\0\0\0"


def test_booleans() -> None:
    """True and false are bytes."""
    assert to_raw("x", "BOOL", [2], [True, False]) == b"\1\0"


def test_empty() -> None:
    """A tensor may have no elements."""
    assert to_raw("x", "FP32", [0, 5], []) == to_raw("x", "FP32", [2, 0], [[], []]) == b""


@pytest.mark.parametrize(
    ("datatype", "shape", "data", "says"),
    [
        ("FP16", [1], [1.0], "send it in binary"),
        ("BF16", [1], [1.0], "send it in binary"),
        ("FP32", [2], [1.0], "takes 2 values, its data has 1"),
        ("FP32", [1], 1.0, "is no JSON array"),
        ("FP32", [1], {"0": 1}, "is no JSON array"),
        ("FP32", [3], [[1, 2], [3]], "ragged"),
        ("FP32", [3], [[1, 2], 3], "ragged"),
        ("FP32", [1], [None], "other values than numbers"),
        ("FP32", [1], ["1"], "other values than numbers"),
        ("FP32", [1], [True], "other values than numbers"),
        ("INT32", [1], [1.0], "other values than whole numbers"),
        ("INT32", [1], [False], "other values than whole numbers"),
        ("BOOL", [1], [1], "other values than true and false"),
        ("BYTES", [1], [1], "other values than strings"),
        ("BYTES", [1], ["\ud800"], "no UTF-8 form"),
    ],
)
def test_what_is_refused(datatype: str, shape: list[int], data: Any, says: str) -> None:
    """What two servers could take for different tensors is refused."""
    with pytest.raises(MalformedRequest, match=says):
        to_raw("x", datatype, shape, data)


def test_too_deep() -> None:
    """No tensor has so many dimensions."""
    data: list[Any] = [1]
    for _ in range(40):
        data = [data]
    with pytest.raises(MalformedRequest, match="nested deeper than 32"):
        to_raw("x", "FP32", [1], data)
