"""Guard and OpenCV read the same file: the same picture, or Guard refuses it."""

from __future__ import annotations

import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from guard.decode.images import Colour, decode_image
from guard.errors import MalformedRequest
from tests.decode.parts import (
    GRADIENT,
    PNG,
    chunk,
    claimed_png,
    jpeg,
    jpeg_with,
    png,
    png_with,
    saved,
    tiff,
    xmp,
)

EXIF, XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"
NOISE = np.random.default_rng(3).integers(0, 256, (16, 24, 3), dtype=np.uint8)


def opencvs(data: bytes, *, colour: Colour, orient: bool) -> np.ndarray | None:
    """What OpenCV reads; None where it can't."""
    flags = cv2.IMREAD_GRAYSCALE if colour == "L" else cv2.IMREAD_COLOR
    read = cv2.imdecode(np.frombuffer(data, np.uint8), flags | (0 if orient else cv2.IMREAD_IGNORE_ORIENTATION))
    return read if read is None or read.ndim == 2 else read[..., ::-1]


def agree(data: bytes, *, colour: Colour = "RGB", orient: bool = True) -> bool:
    """Whether both read the same picture, to a level of rounding; False where Guard refuses it.

    What OpenCV can't read no server gets an answer for.
    """
    theirs = opencvs(data, colour=colour, orient=orient)
    try:
        ours = np.asarray(decode_image(data, colour=colour, orient=orient)).astype(int)
    except MalformedRequest:
        return False
    assert theirs is not None
    np.testing.assert_allclose(ours, theirs, atol=1)
    return True


def text(name: bytes, content: bytes) -> bytes:
    """A chunk of international text."""
    return chunk(b"iTXt", name + bytes(5) + content)


def raw_profile(content: bytes) -> bytes:
    """EXIF data as ImageMagick puts it into a text chunk."""
    written = b"\nexif\n%8d\n" % len(content) + content.hex().encode() + b"\n"
    return chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(written))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", range(11))
def test_orientations(orientation: int, order: str) -> None:
    """Each orientation turns the picture as OpenCV turns it, of JPEG and PNG; there is none but 1 to 8."""
    exif = tiff(orientation, order=order)
    turned = jpeg_with(EXIF + exif), png_with(chunk(b"eXIf", exif)), png_with(chunk(b"eXIf", exif), last=True)
    assert [agree(data) for data in turned] == [True] * 3
    assert decode_image(turned[0], colour="RGB", orient=True).size == ((16, 24) if 5 <= orientation <= 8 else (24, 16))


@pytest.mark.parametrize(
    "data",
    [
        jpeg_with(XMP + xmp(2)),
        jpeg_with(EXIF + tiff(6), XMP + xmp(2)),
        jpeg_with(XMP + xmp(2), EXIF + tiff(6)),
        png_with(text(b"XML:com.adobe.xmp", xmp(2))),
        png_with(text(b"XML:com.adobe.xmp", xmp(2)), last=True),
        png_with(text(b"XML:com.adobe.xmp", xmp(2)), chunk(b"eXIf", tiff(6))),
        png_with(raw_profile(tiff(6))),
        png_with(raw_profile(EXIF + tiff(6))),
        png_with(chunk(b"tEXt", b"Orientation\x006")),
        jpeg_with(EXIF + tiff()),
        jpeg() + jpeg_with(EXIF + tiff(6)),
    ],
)
def test_other_orientations_are_none(data: bytes) -> None:
    """What is no EXIF turns nothing: XMP, text chunks, and what comes after the picture."""
    assert agree(data)
    assert agree(data, orient=False)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # Pillow looks for the resolution in it
@pytest.mark.parametrize(
    "data",
    [
        jpeg_with(EXIF + tiff(6), EXIF + tiff(3)),
        jpeg_with(EXIF + tiff(6)[:12], EXIF + tiff(6)[12:]),
        jpeg_with(EXIF + tiff(6)[:14]),
        jpeg_with(EXIF + b"II*"),
        jpeg_with(EXIF + b"II+\0" + tiff(6)[4:]),
        jpeg_with(b"Exif\0\xff" + tiff(6)),
        jpeg_with(EXIF + tiff(6, 3)),
        jpeg_with(EXIF + tiff(6, kind=1)),
        jpeg_with(EXIF + tiff(6, kind=4)),
        jpeg_with(EXIF + tiff(6, kind=4, order=">")),
        jpeg_with(EXIF + tiff(6, number=0)),
        jpeg_with(EXIF + tiff(6, number=2)),
        png_with(chunk(b"eXIf", tiff(6)), chunk(b"eXIf", tiff(3))),
        png_with(chunk(b"eXIf", EXIF + tiff(6))),
    ],
)
def test_doubtful_orientations(data: bytes) -> None:
    """What decoders may read differently is refused where the orientation counts, and else of no interest."""
    with pytest.raises(MalformedRequest, match="decoders may differ on which way up the image is"):
        decode_image(data, colour="RGB", orient=True)
    assert agree(data, orient=False)


def interlaced(pixels: np.ndarray) -> bytes:
    """A PNG in Adam7's seven passes."""
    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    rows = [b"\0" + row.tobytes() for x, y, right, down in passes for row in pixels[y::down, x::right]]
    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 8, 2, 0, 0, 1)
    return PNG + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"".join(rows))) + chunk(b"IEND", b"")


def deep(channels: int, colour: int) -> bytes:
    """A PNG of 16 bits a channel."""
    values = np.random.default_rng(5).integers(0, 65536, (4, 5 * channels)).astype(">u2")
    return claimed_png(5, 4, b"".join(b"\0" + row.tobytes() for row in values), depth=16, colour=colour)


def palette(**options: object) -> bytes:
    """A PNG of two colours out of a palette."""
    image = Image.fromarray((GRADIENT[..., 0] > 127).astype(np.uint8)).convert("P")
    image.putpalette([10, 20, 30, 200, 210, 220])
    return saved(image, **options)


def animated(frames: int) -> bytes:
    """A PNG with another picture behind its own, which says how many frames it has."""
    control = [chunk(b"fcTL", struct.pack(">IIIIIHHBB", number, 24, 16, 0, 0, 1, 10, 0, 0)) for number in range(2)]
    rows = zlib.compress(b"".join(b"\0" + row.tobytes() for row in 255 - GRADIENT))
    data = png_with(chunk(b"acTL", struct.pack(">II", frames, 0)), control[0])
    return png_with(control[1], chunk(b"fdAT", struct.pack(">I", 2) + rows), data=data, last=True)


@pytest.mark.parametrize("colour", ["RGB", "L"])
@pytest.mark.parametrize(
    "data",
    [
        jpeg(),
        jpeg(progressive=True),
        jpeg(GRADIENT[..., 0]),
        jpeg(keep_rgb=True),
        jpeg(subsampling=2),
        jpeg() + jpeg(255 - GRADIENT),
        png(np.dstack([GRADIENT, NOISE[..., :1]])),
        saved(Image.fromarray(NOISE[..., :2], "LA")),
        palette(),
        palette(transparency=b"\x00\xff"),
        saved(Image.fromarray(GRADIENT[..., 0] > 127)),
        claimed_png(8, 2, b"\0\x1b\xe4" * 2, depth=2),
        claimed_png(4, 2, b"\0\x1b\xe4" * 2, depth=4),
        deep(1, 0),
        deep(3, 2),
        deep(2, 4),
        deep(4, 6),
        interlaced(NOISE),
        png_with(chunk(b"tRNS", struct.pack(">3H", *GRADIENT[0, 0].tolist()))),
        png_with(chunk(b"bKGD", bytes(6))),
        png_with(chunk(b"cICP", bytes([9, 16, 0, 1]))),
        png_with(chunk(b"gAMA", struct.pack(">I", 220_000)), data=png(GRADIENT[..., 0])),
        animated(1),
    ],
)
def test_kinds_of_image(data: bytes, colour: Colour) -> None:
    """Both read the same of what JPEG and PNG can hold: first picture, higher byte, and no alpha."""
    assert agree(data, colour=colour)


@pytest.mark.parametrize(
    "data",
    [
        jpeg()[:-200],
        jpeg()[:-2],
        png()[:-40],
        saved(Image.new("CMYK", (8, 8)), "JPEG"),
        animated(2),
    ],
)
def test_what_decoders_differ_on(data: bytes) -> None:
    """What is cut short, moves, or has inks for colours is refused."""
    assert not agree(data)


@pytest.mark.parametrize("said", [chunk(b"gAMA", struct.pack(">I", 220_000)), chunk(b"sRGB", b"\0")])
def test_gamma(said: bytes) -> None:
    """Colours are the same whatever gamma is named. Their brightness is not: that is known, and called approximate."""
    data = png_with(said)
    assert agree(data)
    ours = np.asarray(decode_image(data, colour="L")).astype(int)
    assert np.abs(ours - opencvs(data, colour="L", orient=True)).max() > 50
