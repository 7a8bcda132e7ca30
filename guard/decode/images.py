"""Encoded images to pixels, within limits: nothing that clients send is parsed by more code than this.

JPEG and PNG only, by Pillow, whose headers are read before anything is allocated. (OpenCV would try every format that
it was built with, and decodes what is cut short without a word.) Where decoders read the same file differently, it is
decided here: alpha is dropped and not blended, as servers' decoders do; of 16 bits the higher eight count; the EXIF
orientation, and no other, is heeded where the profile says so; CMYK and animations are refused, for no two decoders
agree on them. The brightness of colours is ITU-R 601's, whatever gamma a PNG names: OpenCV heeds that, if it is asked
for grey, which is one reason why what is decided about such images is called approximate.
"""

from __future__ import annotations

import io
from typing import Any, Final, Literal, TypeAlias

import numpy as np
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from guard.decode.orientation import turn_of
from guard.errors import MalformedRequest

MAX_PIXELS: Final = 25_000_000
"""Of one image, where nobody says otherwise: more than most cameras have."""
MAX_SCANS: Final = 100
"""Of one JPEG: each is decoded over the whole image, whatever its size in bytes; encoders make about ten."""

Colour: TypeAlias = Literal["RGB", "L"]
_JPEG, _PNG, _SCAN = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"\xff\xda"
_EIGHT_BITS = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA"})
_SIXTEEN_BITS = frozenset({"I", "I;16", "I;16B", "I;16L"})


def size_of(data: bytes, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Width and height of an image, of which nothing but the header is read.

    Raises:
        MalformedRequest: it is no JPEG or PNG, or holds more than it may.
    """
    size: tuple[int, int] = _checked(data, max_pixels).size
    return size


def scans_of(data: bytes) -> int:
    """How often a JPEG is decoded over the whole image; 1 for a PNG."""
    return max(data.count(_SCAN), 1) if data.startswith(_JPEG) else 1


def decode_image(data: bytes, *, colour: Colour, orient: bool = False, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """An image with 8 bits a channel: three of them, or its brightness.

    Raises:
        MalformedRequest: it is no whole JPEG or PNG, or holds more than it may.
    """
    opened = _checked(data, max_pixels)
    try:
        opened.load()
    except Exception as error:  # a parser of hostile bytes raises a dozen unrelated classes
        raise MalformedRequest("the image can't be decoded: it is cut short or damaged") from error
    turn = turn_of(opened, data) if orient else None
    return _as_colour(opened if turn is None else opened.transpose(turn), colour)


def _opened(data: bytes) -> Any:
    """Its header read, and nothing else."""
    try:
        if data.startswith(_JPEG):
            if scans_of(data) > MAX_SCANS:
                raise MalformedRequest(f"the JPEG has more than {MAX_SCANS} scans: encode it again")
            return JpegImageFile(io.BytesIO(data))
        if data.startswith(_PNG):
            return PngImageFile(io.BytesIO(data))
    except MalformedRequest:
        raise
    except Exception as error:  # as above
        raise MalformedRequest("the image's header is damaged") from error
    raise MalformedRequest("an item is neither a JPEG nor a PNG: send one encoded image an item")


def _checked(data: bytes, max_pixels: int) -> Any:
    """The same, within limits."""
    opened = _opened(data)
    width, height = opened.size
    if not 0 < width * height <= max_pixels:
        raise MalformedRequest(
            f"the image has {width} x {height} pixels, and `limits.max_image_pixels` is {max_pixels}: "
            "send a smaller one"
        )
    if getattr(opened, "n_frames", 1) > 1:
        raise MalformedRequest(f"the image has {opened.n_frames} frames: send a still one")
    return opened


def _as_colour(image: Image.Image, colour: Colour) -> Image.Image:
    image.info.pop("transparency", None)  # of a palette or of one colour: dropped, as alpha is
    if image.mode in _SIXTEEN_BITS:
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode not in _EIGHT_BITS:
        raise MalformedRequest(f"the image has {image.mode} colours, which decoders read differently: send RGB or grey")
    if image.mode in {"P", "PA"}:
        image = image.convert("RGB")
    return image if image.mode == colour else image.convert(colour)
