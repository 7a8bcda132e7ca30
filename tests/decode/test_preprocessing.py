"""Encoded images to the model's input: by Guard, by the guarded server, and within the time."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from guard.decode.encoded import encoded_images
from guard.decode.preprocessing import ImageReader, bounds_of, pixels
from guard.errors import BackendError, DeadlineExceeded, MalformedRequest
from guard.profile.spec import ImagePreprocessing, ServerPreprocessing
from guard.values import Float32Array, InferRequest, Layout, ModelInfo, OutputKind, WireTensor
from tests.decode.parts import GRADIENT, jpeg, png
from tests.support.waiting import PATIENCE_S

INFO = ModelInfo("m", "x", "y", "FP32", (3, 16, 24), 2, (0.0, 1.0), OutputKind.LOGITS, "ab", layout=Layout.CHW)
PLAIN = ImagePreprocessing(input="IMAGE", size_px=(16, 24))
SERVER = ServerPreprocessing(input="IMAGE", upstream_model="prepare", upstream_output="tensor")


def scans(data: bytes, number: int) -> bytes:
    """A JPEG whose last scan comes so many times more."""
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * number + data[-2:]


def raw(*images: bytes, shape: tuple[int, ...] | None = None, name: str = "IMAGE") -> WireTensor:
    """Images as raw contents."""
    joined = b"".join(struct.pack("<I", len(image)) + image for image in images)
    return WireTensor(name, "BYTES", shape or (len(images),), raw=memoryview(joined))


def request(*inputs: WireTensor) -> InferRequest:
    """A request with these inputs."""
    return InferRequest("m", "", "", inputs)


@pytest.mark.parametrize("shape", [(2,), (2, 1), (2, 1, 1)])
def test_images_of_a_request(shape: tuple[int, ...]) -> None:
    """One element is one image, raw and typed alike, whatever dimensions of one come behind the batch."""
    images = png(), b""
    typed = WireTensor("IMAGE", "BYTES", shape, typed=np.array(images, np.object_))
    assert encoded_images(request(raw(*images, shape=shape)), "IMAGE") == images
    assert encoded_images(request(typed), "IMAGE") == images


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ((), "exactly one input, named 'IMAGE'; the request has: none"),
        ((raw(b"a", name="other"),), "the request has: 'other'"),
        ((WireTensor("IMAGE", "UINT8", (1,), raw=memoryview(b"a")),), "must be BYTES .* the request says UINT8"),
        ((raw(b"a", b"b", shape=(1, 2)),), r"must have shape \[n\] or \[n, 1\]"),
        ((raw(b"a", shape=(2,)),), "takes 2 images, the request holds 1"),
        ((raw(shape=(0,)),), r"must have shape \[n\]"),
        ((WireTensor("IMAGE", "BYTES", (1,), raw=memoryview(b"\xff\xff\0\0a")),), "ends within an element"),
        ((WireTensor("IMAGE", "BYTES", (1,), raw=memoryview(b"\1\0")),), "ends within the length of an element"),
    ],
)
def test_no_images(inputs: tuple[WireTensor, ...], says: str) -> None:
    """A request that does not hold one image an item is refused, saying what is expected."""
    with pytest.raises(MalformedRequest, match=says):
        encoded_images(request(*inputs), "IMAGE")


def test_scaled_and_ordered() -> None:
    """Values are (pixel * scale - mean) / std, in the colours' order, and the bounds are those of black and white."""
    made = pixels(PLAIN.model_copy(update={"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.25, 0.5)}), [png()])[0]
    np.testing.assert_allclose(made, (GRADIENT / 255 - [0.5, 0.4, 0.3]) / [0.2, 0.25, 0.5], atol=1e-5)
    blue_first = PLAIN.model_copy(update={"colour": "bgr", "scale": 1.0})
    np.testing.assert_array_equal(pixels(blue_first, [png()])[0], GRADIENT[..., ::-1])
    assert bounds_of(blue_first) == (0, 255)
    assert bounds_of(PLAIN.model_copy(update={"mean": (0.5,), "std": (0.25,)})) == pytest.approx((-2, 2))
    grey = PLAIN.model_copy(update={"colour": "grey"})
    assert pixels(grey, [png()]).shape == (1, 16, 24, 1)


def test_resized_and_cropped() -> None:
    """Both sides are resized; or the shorter one, and the middle is cut out."""
    grey = np.zeros((40, 80), np.uint8)
    grey[:, 40:] = 200
    stretched = pixels(PLAIN.model_copy(update={"size_px": (10, 10), "scale": 1.0}), [png(grey)])[0, ..., 0]
    assert (stretched[:, :4] == 0).all()
    assert (stretched[:, -4:] == 200).all()
    grey[:, :20], grey[:, 60:] = 77, 99
    cut = PLAIN.model_copy(update={"size_px": (10, 20), "shorter_side_px": 20, "scale": 1.0, "filter": "nearest"})
    middle = pixels(cut, [png(grey)])[0, ..., 0]
    assert set(middle.ravel().tolist()) == {0, 200}
    assert (middle[:, :10] == 0).all()


def test_layouts_and_data_types() -> None:
    """The reader gives what the model takes: channels where they are, and values that its data type holds."""
    reader = ImageReader(PLAIN, INFO)
    last = ImageReader(PLAIN, replace(INFO, shape=(16, 24, 3), layout=Layout.HWC))
    np.testing.assert_array_equal(np.moveaxis(reader.read([png()]), 1, -1), last.read([png()]))
    assert reader.approximate
    assert reader.read([png()]).shape == (1, 3, 16, 24)
    assert reader.submit([png()], 5.0).result().flags.c_contiguous
    matrix = ImageReader(
        PLAIN.model_copy(update={"colour": "grey"}), replace(INFO, shape=(16, 24), layout=Layout.HW, datatype="FP16")
    )
    read = matrix.read([png()])
    assert read.shape == (1, 16, 24)
    np.testing.assert_array_equal(read.astype(np.float16).astype(np.float32), read)
    for each in (reader, last, matrix):
        each.close()


def test_which_image() -> None:
    """Of a batch the message says which image is damaged; and an image that is too long for its width is none."""
    with pytest.raises(MalformedRequest, match=r"item 1 of 2: .*cut short"):
        pixels(PLAIN, [png(), png()[:-40]])
    cut = PLAIN.model_copy(update={"size_px": (10, 10), "shorter_side_px": 200})
    with pytest.raises(MalformedRequest, match="too long for its width"):
        pixels(cut, [png(np.zeros((1, 3000), np.uint8))], max_pixels=1_000_000)


def test_no_time() -> None:
    """Decoding ends with its time, between two images."""
    with pytest.raises(DeadlineExceeded, match="0 of 2 images"):
        pixels(PLAIN, [jpeg(), jpeg()], timeout_s=0)


def large(side: int = 1000) -> bytes:
    """A PNG of a few kilobytes that takes its time."""
    return png(np.zeros((side, side, 3), np.uint8))


def test_clients_take_turns() -> None:
    """Who sends image after image keeps nobody waiting for longer than for one of them on each thread."""
    reader = ImageReader(PLAIN, INFO)
    much = [reader.submit([large()] * 64, PATIENCE_S, "greedy") for _ in range(8)]
    assert reader.submit([png()], PATIENCE_S, "modest").result(PATIENCE_S).shape == (1, 3, 16, 24)
    assert not any(each.done() for each in much[2:])
    for each in much:
        each.cancel()
    reader.close()


LONG = {"size_px": (10, 10), "shorter_side_px": 100}


@pytest.mark.parametrize(
    ("said", "images", "refused"),
    [
        ({}, [large(100)] * 4, None),
        ({}, [large(100)] * 5, 4),
        ({}, [large(1)] * 256 + [large(100)] * 4, 259),
        ({}, [jpeg(np.zeros((100, 100, 3), np.uint8), progressive=True)] * 4, None),
        ({}, [scans(jpeg(np.zeros((100, 100, 3), np.uint8), progressive=True), 22)] * 2, 1),
        (LONG, [png(np.zeros((1, 1), np.uint8))] * 4, None),
        (LONG, [png(np.zeros((1, 1), np.uint8))] * 5, 4),
    ],
)
def test_too_much_together(said: dict[str, object], images: list[bytes], refused: int | None) -> None:
    """A request's images are four of the largest at most, resizing and scans of JPEGs counted: more is not decoded."""
    info = replace(INFO, shape=(3, 10, 10)) if said else INFO
    reader = ImageReader(PLAIN.model_copy(update=said), info, max_pixels=10_000)
    future = reader.submit(images, PATIENCE_S)
    if refused is None:
        assert len(future.result(PATIENCE_S)) == len(images)
    else:
        with pytest.raises(MalformedRequest, match=f"item {refused} of {len(images)}: .* more than 40000 pixels"):
            future.result(PATIENCE_S)
    assert len(reader.read(images)) == len(images)  # calibration takes what there is
    reader.close()


class Server:
    """A server that answers the same for each image."""

    def __init__(self, answer: Float32Array) -> None:
        self.answer = answer
        self.asked: dict[str, object] = {}

    def ask(self, images: Sequence[bytes], **asked: object) -> Float32Array:
        """Answer."""
        self.asked = asked
        return np.repeat(self.answer[None], len(images), axis=0)

    def close(self) -> None:
        """Nothing to close."""


def test_the_servers_own() -> None:
    """Where the profile names a model, its answer is the input, and exact; one that doesn't fit is a fault."""
    server = Server(np.ones((3, 16, 24), np.float32))
    reader = ImageReader(SERVER, INFO, server=server)
    assert reader.read([b"anything"] * 2, timeout_s=PATIENCE_S).shape == (2, 3, 16, 24)
    assert server.asked == {
        "model": "prepare",
        "input_name": "IMAGE",
        "output_name": "tensor",
        "timeout_s": pytest.approx(PATIENCE_S, rel=0.5),
    }
    assert not reader.approximate
    server.answer = np.ones((3, 8, 8), np.float32)
    with pytest.raises(BackendError, match=r"answered shape \[1, 3, 8, 8\] for 1 images"):
        reader.read([b""])
    server.answer = np.full((3, 16, 24), np.nan, np.float32)
    with pytest.raises(MalformedRequest, match="NaN or infinity"):
        reader.read([b""])
    with pytest.raises(BackendError, match="nobody can be asked"):
        ImageReader(SERVER, INFO).read([b""])


@pytest.mark.parametrize(
    ("said", "says"),
    [
        ({"mean": (0.1, 0.2)}, "one value, or 3 for colour rgb"),
        ({"colour": "grey", "std": (1.0, 1.0, 1.0)}, "one value, or 1 for colour grey"),
        ({"shorter_side_px": 20}, "leaves too little to cut"),
        ({"std": (0.0,)}, "greater than 0"),
    ],
)
def test_impossible_preprocessing(said: dict[str, object], says: str) -> None:
    """Preprocessing that contradicts itself is refused where it is read."""
    with pytest.raises(ValueError, match=says):
        ImagePreprocessing.model_validate({"input": "IMAGE", "size_px": (16, 24), **said})
