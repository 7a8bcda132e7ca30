"""Encoded images to pixels: what is accepted, how it is read, and what is refused before it costs anything."""

from __future__ import annotations

import contextlib
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from guard.decode.images import MAX_SCANS, decode_image
from guard.errors import MalformedRequest
from tests.decode.parts import GRADIENT, PNG, chunk, claimed_png, jpeg, jpeg_with, png, png_with, saved, tiff


def pixels(data: bytes, *, colour: str = "RGB", orient: bool = False) -> np.ndarray:
    """What is read of an image."""
    return np.asarray(decode_image(data, colour=colour, orient=orient)).astype(int)


def test_png_is_exact_and_jpeg_nearly() -> None:
    """A PNG is read to the bit, a good JPEG to a few levels."""
    np.testing.assert_array_equal(pixels(png()), GRADIENT)
    assert np.abs(pixels(jpeg()) - GRADIENT).max() <= 4


def test_grey_and_colour() -> None:
    """A grey image in colour has its brightness three times; a colour image in grey its luma (ITU-R 601)."""
    grey = GRADIENT[..., 0]
    np.testing.assert_array_equal(pixels(png(grey)), np.repeat(grey[..., None], 3, axis=-1))
    luma = GRADIENT @ np.array([0.299, 0.587, 0.114])
    assert np.abs(pixels(png(), colour="L") - luma).max() <= 1
    assert pixels(jpeg(grey), colour="L").shape == (16, 24)


def test_alpha_is_dropped() -> None:
    """What is under transparent pixels is read, as servers' decoders read it, and not blended with anything."""
    alpha = np.zeros((16, 24, 1), np.uint8)
    np.testing.assert_array_equal(pixels(png(np.concatenate([GRADIENT, alpha], axis=-1))), GRADIENT)
    grey = np.concatenate([GRADIENT[..., :1], alpha], axis=-1)
    np.testing.assert_array_equal(pixels(saved(Image.fromarray(grey, "LA")), colour="L"), GRADIENT[..., 0])


def test_palette() -> None:
    """Colours of a palette are looked up, transparent ones too."""
    image = Image.fromarray((GRADIENT[..., 0] > 127).astype(np.uint8)).convert("P")
    image.putpalette([10, 20, 30, 200, 210, 220])
    read = pixels(saved(image, transparency=b"\x00\xff"))
    assert read[0, 0].tolist() == [10, 20, 30]
    assert read[0, -1].tolist() == [200, 210, 220]


@pytest.mark.parametrize("colour", ["L", "RGB"])
def test_sixteen_bits(colour: str) -> None:
    """Of 16 bits a channel the higher eight count, in grey and in colour alike."""
    levels = np.array([[0, 255, 256, 0x1234, 0xFFFF]], np.uint16)
    if colour == "L":
        read = pixels(saved(Image.fromarray(levels)), colour="L")
        assert read.tolist() == [[0, 0, 1, 0x12, 0xFF]]
    else:
        row = b"\0" + b"".join(struct.pack(">HHH", each, each, each) for each in levels[0].tolist())
        assert pixels(claimed_png(5, 1, row, depth=16, colour=2))[0, :, 2].tolist() == [0, 0, 1, 0x12, 0xFF]


def test_black_and_white() -> None:
    """One bit a pixel is black or white."""
    assert set(pixels(saved(Image.fromarray(GRADIENT[..., 0] > 127)), colour="L").ravel().tolist()) == {0, 255}


def test_orientation() -> None:
    """The EXIF orientation is heeded where the profile says so, and else not."""
    turned = Image.Exif()
    turned[0x0112] = 6
    data = saved(Image.fromarray(GRADIENT), "JPEG", exif=turned, quality=100)
    assert pixels(data).shape == (16, 24, 3)
    assert pixels(data, orient=True).shape == (24, 16, 3)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "neither a JPEG nor a PNG"),
        (b"GIF89a" + bytes(40), "neither a JPEG nor a PNG"),
        (b"II*\0" + bytes(40), "neither a JPEG nor a PNG"),
        (PNG, "header is damaged"),
        (PNG + bytes(40), "header is damaged"),
        (b"\xff\xd8\xff" + bytes(40), "header is damaged"),
        (png()[:-40], "cut short or damaged"),
        (jpeg()[:-200], "cut short or damaged"),
        (claimed_png(8, 8, b"\0" * 20), "cut short or damaged"),
        (claimed_png(5001, 5000), "5001 x 5000 pixels, and `limits.max_image_pixels` is 25000000"),
        (claimed_png(2**31 - 1, 2**31 - 1), "pixels, and `limits.max_image_pixels`"),
        (claimed_png(0, 5), "header is damaged"),
        (saved(Image.new("CMYK", (8, 8)), "JPEG"), "CMYK colours, which decoders read differently"),
        (
            saved(
                Image.fromarray(GRADIENT), save_all=True, append_images=[Image.fromarray(255 - GRADIENT)], duration=9
            ),
            "2 frames: send a still one",
        ),
    ],
)
def test_refused(data: bytes, says: str) -> None:
    """What is no whole JPEG or PNG, too large, moving, or ambiguous is refused, and the message says which."""
    with pytest.raises(MalformedRequest, match=says):
        decode_image(data, colour="RGB")


def test_a_jpeg_of_many_scans() -> None:
    """A JPEG may be decoded over and over by a few bytes a scan: it is counted before it is decoded."""
    data = jpeg()
    scan = data[data.index(b"\xff\xda") : -2]
    bomb = data[:-2] + scan * MAX_SCANS + data[-2:]
    with pytest.raises(MalformedRequest, match=f"more than {MAX_SCANS} scans"):
        decode_image(bomb, colour="RGB")
    assert pixels(jpeg(progressive=True)).shape == (16, 24, 3)


@pytest.mark.parametrize(
    "bomb",
    [
        claimed_png(8, 8, bytes(50_000_000)),
        PNG
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0))
        + chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(50_000_000)))
        + chunk(b"IDAT", zlib.compress(bytes(72)))
        + chunk(b"IEND", b""),
        claimed_png(5000, 5000),
    ],
    ids=["rows", "text", "claim"],
)
def test_bombs_take_no_memory(bomb: bytes) -> None:
    """A small file that inflates without end, or claims a large size, takes no more memory than its pixels may."""
    tracemalloc.start()
    try:
        with contextlib.suppress(MalformedRequest):  # or it is read, within its limits
            decode_image(bomb, colour="RGB", max_pixels=1_000_000)
        assert tracemalloc.get_traced_memory()[1] < 30_000_000
    finally:
        tracemalloc.stop()


@given(data=st.data())
def test_damage_is_refused_or_read(data: st.DataObject) -> None:
    """Whatever bytes of an image are changed, it is read within its limits or refused, and nothing else is raised."""
    turned = jpeg_with(b"Exif\0\0" + tiff(6)), png_with(chunk(b"eXIf", tiff(6)))
    image = bytearray(data.draw(st.sampled_from([png(), jpeg(), jpeg(progressive=True), *turned])))
    for _ in range(data.draw(st.integers(1, 6))):
        image[data.draw(st.integers(0, len(image) - 1))] = data.draw(st.integers(0, 255))
    try:
        read = decode_image(bytes(image), colour="RGB", orient=True, max_pixels=100_000)
    except MalformedRequest:
        return
    assert read.mode == "RGB"
    assert read.width * read.height <= 100_000
