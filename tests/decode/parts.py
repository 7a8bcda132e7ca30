"""Encoded images of every kind that a client may send."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image

PNG = b"\x89PNG\r\n\x1a\n"
GRADIENT = np.stack(
    [
        np.tile(np.linspace(0, 255, 24), (16, 1)),
        np.tile(np.linspace(0, 255, 16)[:, None], (1, 24)),
        np.full((16, 24), 90),
    ],
    axis=-1,
).astype(np.uint8)
"""A smooth picture, (16, 24, 3)."""


def saved(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """An image as a file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png(pixels: np.ndarray = GRADIENT) -> bytes:
    """A PNG."""
    return saved(Image.fromarray(pixels))


def jpeg(pixels: np.ndarray = GRADIENT, **options: object) -> bytes:
    """A JPEG, good enough that hardly a level is lost."""
    return saved(Image.fromarray(pixels), "JPEG", **{"quality": 100, "subsampling": 0, **options})


def chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def claimed_png(width: int, height: int, rows: bytes = b"", depth: int = 8, colour: int = 0) -> bytes:
    """A PNG that claims a size, whatever it holds."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return PNG + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def tiff(*orientations: int, order: str = "<", kind: int = 3, number: int = 1) -> bytes:
    """EXIF data with these orientations, each `number` values of a type of TIFF (1 byte, 3 short, 4 long)."""
    head = b"II*\0" if order == "<" else b"MM\0*"
    value = {1: "B", 3: "H", 4: "I"}[kind]
    entries = [
        struct.pack(order + "HHI", 0x0112, kind, number) + struct.pack(order + value, each).ljust(4, b"\0")
        for each in orientations
    ]
    return head + struct.pack(order + "IH", 8, len(entries)) + b"".join(entries) + bytes(4)


def xmp(orientation: int) -> bytes:
    """XMP with an orientation."""
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" '
        f'tiff:Orientation="{orientation}"/></rdf:RDF></x:xmpmeta>'
    ).encode()


def jpeg_with(*app1: bytes) -> bytes:
    """A JPEG with these APP1 segments behind its first one."""
    data = jpeg()
    (length,) = struct.unpack_from(">H", data, 4)
    segments = b"".join(b"\xff\xe1" + struct.pack(">H", len(each) + 2) + each for each in app1)
    return data[: 4 + length] + segments + data[4 + length :]


def png_with(*chunks: bytes, data: bytes | None = None, last: bool = False) -> bytes:
    """A PNG with these chunks behind its header; or at its end."""
    data = png() if data is None else data
    at = len(data) - 12 if last else 33
    return data[:at] + b"".join(chunks) + data[at:]
