"""Which way up an image is, where that is beyond doubt: by the one EXIF orientation that all decoders go by.

Some libraries read an orientation out of XMP, or out of text chunks of a PNG. OpenCV does not, and neither does Guard:
it would screen another picture than the server sees. What decoders may read differently (EXIF twice, in pieces or
damaged, an orientation twice or as another type than the standard's) is refused.

Source: CIPA DC-008 (EXIF 2.32), section 4.6; PNG, third edition, section 11.3.4.4.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Final

from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from guard.errors import MalformedRequest

_IN_JPEG: Final = b"Exif\0\0"
_ORDERS: Final = {b"II*\0": "<", b"MM\0*": ">"}
_ORIENTATION, _SHORT, _ENTRY_BYTES = 0x0112, 3, 12
_TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def turn_of(image: Image.Image, data: bytes) -> Image.Transpose | None:
    """How to turn an image that `data` holds; None where it is the right way up. A value out of 1 to 8 says nothing.

    Raises:
        MalformedRequest: decoders may read its orientation differently.
    """
    blocks = _in_jpeg(image) if isinstance(image, JpegImageFile) else list(_in_png(data))
    if len(blocks) > 1:
        raise _doubtful("it has EXIF data twice")
    return _TURNS.get(_orientation(blocks[0])) if blocks else None


def _in_jpeg(image: JpegImageFile) -> Sequence[bytes]:
    segments = [content for marker, content in image.applist if marker == "APP1" and content.startswith(b"Exif")]
    if not all(segment.startswith(_IN_JPEG) for segment in segments):
        raise _doubtful("its EXIF data is damaged")
    return [segment[len(_IN_JPEG) :] for segment in segments]


def _in_png(data: bytes) -> Iterator[bytes]:
    """Of a file that was decoded: its chunks hold what they say, up to the one that ends it."""
    at, kind = 8, b""
    while kind != b"IEND" and at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        if kind == b"eXIf":
            yield data[at + 8 : at + 8 + length]
        at += 12 + length


def _orientation(block: bytes) -> int:
    """The orientation that an EXIF block says, 1 where it says none."""
    order = _ORDERS.get(block[:4])
    if order is None:
        raise _doubtful("its EXIF data is damaged")
    try:
        (at,) = struct.unpack_from(order + "I", block, 4)
        (count,) = struct.unpack_from(order + "H", block, at)
        entries = [struct.unpack_from(order + "HHIH", block, at + 2 + _ENTRY_BYTES * each) for each in range(count)]
    except struct.error:
        raise _doubtful("its EXIF data is cut short") from None
    said = [entry[1:] for entry in entries if entry[0] == _ORIENTATION]
    if not said:
        return 1
    kind, number, value = said[0]
    if len(said) > 1 or (kind, number) != (_SHORT, 1):
        raise _doubtful("its EXIF orientation is not one number of the type SHORT")
    return int(value)


def _doubtful(why: str) -> MalformedRequest:
    return MalformedRequest(f"decoders may differ on which way up the image is: {why}; take its EXIF data out")
