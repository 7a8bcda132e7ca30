"""Encoded images to begin with, and mutations of them that get past the checksums of a PNG."""

from __future__ import annotations

import io
import struct
import zlib
from random import Random

import numpy as np
from PIL import Image

from benchmarks.fuzz.mutate import mutated_bytes

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_FRAME_BYTES = 12
"""A chunk's length, kind and checksum."""

_NEW = (b"eXIf", b"tRNS", b"gAMA", b"iCCP", b"acTL", b"fcTL", b"IDAT", b"IEND", b"PLTE", b"IHDR", b"zTXt", b"iTXt")
_TURNED = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"


def pictures() -> list[bytes]:
    """Small ones of each kind: JPEG and PNG, grey, in colours, of a palette, with alpha, of 16 bits, and turned."""
    grey = Image.fromarray(np.arange(24, dtype=np.uint8).reshape(4, 6) * 10)
    colours = Image.merge("RGB", [grey, grey.transpose(Image.Transpose.ROTATE_180), grey])
    wide = Image.fromarray(np.arange(24, dtype=np.uint16).reshape(4, 6) * 2000)
    made = [_encoded(image, "PNG") for image in (grey, colours, colours.quantize(8), colours.convert("RGBA"), wide)]
    made += [_encoded(grey, "PNG", exif=_TURNED), _encoded(colours, "JPEG", exif=b"Exif\0\0" + _TURNED)]
    return [*made, _encoded(grey, "JPEG"), _encoded(colours, "JPEG", progressive=True)]


def mutated_picture(data: bytes, rng: Random) -> bytes:
    """A picture with one change; a PNG's chunks keep their checksums, more often than not."""
    chunks = _chunks(data)
    if not chunks or rng.random() < 0.2:  # noqa: PLR2004 - a share
        return mutated_bytes(data, rng)
    at = rng.randrange(len(chunks))
    kind, contents = chunks[at]
    match rng.randrange(6):
        case 0:
            del chunks[at]
        case 1:
            chunks.insert(rng.randrange(len(chunks) + 1), chunks[at])
        case 2:
            chunks.insert(at, (rng.choice(_NEW), rng.choice((contents, _TURNED, b"", bytes(4)))))
        case 3 if kind == b"IDAT":
            chunks[at] = kind, zlib.compress(rng.randbytes(rng.choice((0, 1, 27, 28, 29, 1000))))
        case _:
            chunks[at] = kind, mutated_bytes(contents, rng)
    return SIGNATURE + b"".join(_chunk(*each) for each in chunks)


def _encoded(image: Image.Image, form: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def _chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """Kind and contents of what a PNG consists of, as far as it is whole."""
    chunks, at = [], len(SIGNATURE)
    while data.startswith(SIGNATURE) and at + _FRAME_BYTES <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        if at + _FRAME_BYTES + length > len(data):
            break
        chunks.append((kind, data[at + 8 : at + 8 + length]))
        at += _FRAME_BYTES + length
    return chunks


def _chunk(kind: bytes, contents: bytes) -> bytes:
    return struct.pack(">I", len(contents)) + kind + contents + struct.pack(">I", zlib.crc32(kind + contents))
