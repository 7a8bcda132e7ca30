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
