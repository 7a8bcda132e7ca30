"""decode: a request's one input to float32 items."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.datatypes import WIRE_DTYPES, float32_to_bf16
from guard.decode.tensors import decode
from guard.errors import MalformedRequest, NonFiniteInput, OtherShape
from guard.values import InferRequest, ModelInfo, OutputKind, WireTensor

INFO = ModelInfo("digits", "image", "logits", "FP32", (1, 2, 3), 10, (0.0, 1.0), OutputKind.LOGITS, "ab")
SHAPE = (2, 1, 2, 3)
VALUES = np.arange(12, dtype=np.float32).reshape(SHAPE)


def request(*inputs: WireTensor) -> InferRequest:
    """A request with these inputs."""
    return InferRequest("digits", "", "", inputs)


def raw(data: bytes, *, shape: tuple[int, ...] = SHAPE, datatype: str = "FP32", name: str = "image") -> WireTensor:
    """A raw input, by default the one the model takes."""
    return WireTensor(name, datatype, shape, raw=memoryview(data))


def test_raw_fp32_is_a_view() -> None:
    """A raw FP32 tensor is decoded without copying it, wherever in the message it lies."""
    message = b"odd" + VALUES.tobytes()
    items = decode(request(WireTensor("image", "FP32", SHAPE, raw=memoryview(message)[3:])), INFO)
    np.testing.assert_array_equal(items, VALUES)
    assert items.dtype == np.float32
    assert np.shares_memory(items, np.frombuffer(message, np.uint8))


@pytest.mark.parametrize("datatype", [name for name in WIRE_DTYPES if name not in {"BF16", "BOOL"}])
@pytest.mark.parametrize("form", ["raw", "typed"])
def test_numeric_types_convert(datatype: str, form: str) -> None:
    """Every numeric data type becomes the same float32 values, raw or typed."""
    stored = VALUES.astype(WIRE_DTYPES[datatype])
    tensor = raw(stored.tobytes(), datatype=datatype)
    if form == "typed":
        tensor = WireTensor("image", datatype, SHAPE, typed=stored.reshape(-1))
    items = decode(request(tensor), replace(INFO, datatype=datatype))
    assert items.dtype == np.float32
    np.testing.assert_array_equal(items, VALUES)


def test_bf16_converts() -> None:
    """BF16 bits are widened to the float32 values they stand for."""
    items = decode(request(raw(float32_to_bf16(VALUES).tobytes(), datatype="BF16")), replace(INFO, datatype="BF16"))
    np.testing.assert_array_equal(items, VALUES)


def test_any_byte_but_zero_is_true() -> None:
    """A raw BOOL byte above 1 reads as true, as the servers read it."""
    items = decode(request(raw(bytes([0, 1, 2, 255, 0, 7] * 2), datatype="BOOL")), replace(INFO, datatype="BOOL"))
    assert items.reshape(-1).tolist() == [0, 1, 1, 1, 0, 1] * 2


def test_unbatched_model_takes_one_item() -> None:
    """A model without a batch dimension takes exactly its shape, as one item."""
    unbatched = replace(INFO, batched=False)
    assert decode(request(raw(VALUES[0].tobytes(), shape=(1, 2, 3))), unbatched).shape == (1, 1, 2, 3)
    with pytest.raises(MalformedRequest, match=r"must have shape \[1, 2, 3\]"):
        decode(request(raw(VALUES[:1].tobytes(), shape=(1, 1, 2, 3))), unbatched)


def test_scalar_items() -> None:
    """A batched model whose items are scalars takes shape [n], and not a shape without dimensions."""
    scalar = replace(INFO, shape=())
    assert decode(request(raw(VALUES[0, 0, 0].tobytes(), shape=(3,))), scalar).shape == (3,)
    with pytest.raises(MalformedRequest, match=r"must have shape \[n\]"):
        decode(request(raw(b"\0\0\0\0", shape=())), scalar)


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ((), "exactly one input, named 'image'; the request has: none"),
        ((raw(b"", name="other"),), "the request has: 'other'"),
        ((raw(VALUES.tobytes()), raw(b"", name="mask")), "the request has: 'image', 'mask'"),
        ((raw(VALUES.tobytes(), datatype="INT32"),), "must be FP32, the request says INT32"),
        ((raw(b"", shape=(0, 1, 2, 3)),), "batch of 0 items; send at least one"),
        ((raw(b"", shape=(-1, 1, 2, 3)),), "batch of -1 items"),
        ((raw(VALUES.tobytes(), shape=(2, 3, 2, 1)),), r"must have shape \[n, 1, 2, 3\], the request says \[2, 3"),
        ((raw(VALUES.tobytes(), shape=()),), r"must have shape \[n, 1, 2, 3\]"),
        ((raw(VALUES.tobytes()[:-1]),), "takes 48 bytes as FP32, the request holds 47"),
        ((raw(VALUES.tobytes() + b"\0"),), "the request holds 49"),
        ((raw(b"", shape=(2**62, 1, 2, 3)),), "takes 110680464442257309696 bytes"),
        ((WireTensor("image", "FP32", SHAPE, typed=np.zeros(11, "<f4")),), "takes 12 values, the request holds 11"),
        ((WireTensor("image", "FP32", SHAPE),), "holds no values"),
    ],
)
def test_disagreement_is_refused(inputs: tuple[WireTensor, ...], says: str) -> None:
    """A request that is not the one input the model takes is refused, saying what is expected."""
    with pytest.raises(MalformedRequest, match=says):
        decode(request(*inputs), INFO)


def test_another_shape_that_the_model_takes() -> None:
    """Where the model's height and width are free, items of another size are told from requests that nobody can use."""
    free = replace(INFO, free=(1, 2))
    with pytest.raises(
        OtherShape, match=r"calibrated with items of shape \[1, 2, 3\], the request has \[1, 3, 2\]"
    ) as caught:
        decode(request(raw(VALUES.tobytes(), shape=(2, 1, 3, 2))), free)
    assert caught.value.items == 2
    assert decode(request(raw(VALUES.tobytes())), free).shape == SHAPE
    for shape, says in (
        ((2, 2, 3, 1), r"must have shape \[n, 1, any, any\]"),
        ((2, 6), "must have shape"),
        ((2, 1, 0, 3), "must have shape"),
        ((2, 1, -2, -3), "must have shape"),
        ((3, 1, 3, 2), "takes 72 bytes as FP32, the request holds 48"),
        ((0, 1, 3, 2), "batch of 0 items"),
    ):
        with pytest.raises(MalformedRequest, match=says):
            decode(request(raw(VALUES.tobytes(), shape=shape)), free)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_item_is_named(bad: float) -> None:
    """NaN and infinity are refused before any detector sees them, naming the item."""
    values = VALUES.copy()
    values[1, 0, 1, 2] = bad
    with pytest.raises(NonFiniteInput, match="at item 1 of 2"):
        decode(request(raw(values.tobytes())), INFO)


def test_fp64_beyond_float32_is_non_finite() -> None:
    """An FP64 value that float32 can't hold is refused like an infinity, and warns nobody."""
    values = VALUES.astype(np.float64)
    values[0, 0, 0, 0] = 1e39
    with pytest.raises(NonFiniteInput, match="at item 0 of 2"):
        decode(request(raw(values.tobytes(), datatype="FP64")), replace(INFO, datatype="FP64"))


def test_list_of_non_finite_items_is_capped() -> None:
    """A large batch of bad items does not make a large message."""
    values = np.full((100, 1, 2, 3), np.nan, np.float32)
    with pytest.raises(NonFiniteInput, match=r"at item 0, 1, .*15, \.\.\. of 100"):
        decode(request(raw(values.tobytes(), shape=values.shape)), INFO)


@given(shape=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=6), data=st.binary(max_size=64))
def test_no_shape_crashes_or_allocates(shape: list[int], data: bytes) -> None:
    """Whatever a request claims, decoding it returns its items or refuses it."""
    try:
        items = decode(request(raw(data, shape=tuple(shape))), INFO)
    except (MalformedRequest, NonFiniteInput):
        return
    assert items.nbytes == len(data)
