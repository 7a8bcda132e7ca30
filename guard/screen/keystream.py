"""Random words that nobody without the key can foretell: AES-128 in counter mode (NIST SP 800-38A, 6.5).

A key for each kind of noise and a nonce for each input, both from Guard's secret, so a replayed input meets the same
noise. The counter says which copy, so copies can be made in any chunks. Processors have it built in, and torch's own
CPU generator keeps only 32 bits of its seed.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from guard.values import Float32Array

KEY_BYTES: Final = 16
NONCE_BYTES: Final = 12
_COUNTER_BYTES = 4
_WORD_BYTES = 4
_AES_WORDS = 4  # words in a block of the cipher
_PIECE = 1 << 15  # words made at a time: what stays in the cache
_ZEROS = memoryview(bytes(_PIECE * _WORD_BYTES))
_SLACK = 16  # bytes: the cipher asks for an output buffer with room for a block more than it writes

Words: TypeAlias = npt.NDArray[np.uint32]


class Keystream:
    """Words by key, nonce and position. For one thread at a time."""

    def __init__(self, key: bytes) -> None:
        nonce = bytes(NONCE_BYTES + _COUNTER_BYTES)
        self._encryptor = Cipher(algorithms.AES(key[:KEY_BYTES]), modes.CTR(nonce)).encryptor()

    def write(self, nonce: bytes, block: int, size: int, buffer: memoryview) -> None:
        """Write `size` bytes from a block of the cipher on into a buffer with room for 16 more."""
        self._encryptor.reset_nonce(nonce + block.to_bytes(_COUNTER_BYTES, "big"))
        self._encryptor.update_into(_ZEROS[:size], buffer)


class Draw(NamedTuple):
    """The noise of copies `start` to `start + copies` of one input."""

    stream: Keystream
    nonce: bytes
    start: int
    copies: int


def seeded(rng: np.random.Generator, copies: int) -> Draw:
    """A draw for work that must repeat with a seed, and keeps no secret."""
    return Draw(Keystream(rng.bytes(KEY_BYTES)), bytes(NONCE_BYTES), 0, copies)


class _Scratch(threading.local):
    """Buffers that stay, since fresh pages cost more than the arithmetic; one set a thread."""

    def __init__(self) -> None:
        self.words = np.empty(_PIECE + _SLACK // _WORD_BYTES, dtype=np.uint32)
        self.bytes = self.words.data.cast("B")
        self.radius = np.empty(_PIECE // 2, dtype=np.float32)
        self.angle = np.empty(_PIECE // 2, dtype=np.float32)
        self.wave = np.empty(_PIECE // 2, dtype=np.float32)


_scratch = _Scratch()


def uniforms(draws: Sequence[Draw], values: int) -> Float32Array:
    """Uniform over [0, 1) in steps of 2^-24, (copies, values)."""
    made = np.empty((sum(draw.copies for draw in draws), values), dtype=np.float32)
    for words, rows in _pieces(draws, made):
        np.right_shift(words, 8, out=words)
        np.copyto(rows, words[:, : rows.shape[1]], casting="unsafe")
    made *= np.float32(2.0**-24)
    return made


def gaussians(draws: Sequence[Draw], sigma: float, out: Float32Array) -> None:
    """Fill `out`, (copies, values), with Gaussians of deviation `sigma`.

    By the transform of Box and Muller (1958), two words for two values; the tails reach 6.7 deviations.
    """
    for words, rows in _pieces(draws, out):
        _box_muller(words.view(np.int32), sigma, rows)


def _box_muller(words: npt.NDArray[np.int32], sigma: float, out: Float32Array) -> None:
    copies, half = len(words), words.shape[1] // 2
    rest = max(0, out.shape[1] - half)
    radius = _scratch.radius[: copies * half].reshape(copies, half)
    angle = _scratch.angle[: copies * half].reshape(copies, half)
    floats = words.view(np.float32)
    np.copyto(floats, words, casting="unsafe")
    np.abs(floats[:, :half], out=radius)
    radius *= np.float32(2.0**-31)
    radius += np.float32(2.0**-32)  # never zero, whose logarithm is infinite
    np.log(radius, out=radius)
    radius *= np.float32(-2.0 * sigma * sigma)
    np.sqrt(radius, out=radius)
    np.multiply(floats[:, half:], np.float32(np.pi * 2.0**-31), out=angle)
    wave = _scratch.wave[: copies * half].reshape(copies, half)
    first = min(half, out.shape[1])
    np.cos(angle, out=wave)
    np.multiply(wave[:, :first], radius[:, :first], out=out[:, :first])
    np.sin(angle, out=wave)
    np.multiply(wave[:, :rest], radius[:, :rest], out=out[:, first:])


def _pieces(draws: Sequence[Draw], out: Float32Array) -> Iterator[tuple[Words, Float32Array]]:
    """Words for the rows of `out`, with those rows: many short copies at a time, or one long copy in pieces."""
    values = out.shape[1]
    if values <= _PIECE:
        yield from _short(draws, out, _padded(values))
        return
    row = 0
    per_copy = (values // _PIECE * _PIECE + _padded(values % _PIECE)) // _AES_WORDS
    for draw in draws:
        for copy in range(draw.start, draw.start + draw.copies):
            for at in range(0, values, _PIECE):
                piece = out[row : row + 1, at : at + _PIECE]
                size = _padded(piece.shape[1])
                _write(draw, copy * per_copy + at // _AES_WORDS, size, 0)
                yield _scratch.words[None, :size], piece
            row += 1


def _short(draws: Sequence[Draw], out: Float32Array, size: int) -> Iterator[tuple[Words, Float32Array]]:
    """Copies of `size` words each, as many at a time as fit."""
    most = _PIECE // size
    row = filled = 0
    for draw in draws:
        done = 0
        while done < draw.copies:
            taken = min(draw.copies - done, most - filled)
            _write(draw, (draw.start + done) * size // _AES_WORDS, taken * size, filled * size)
            done, filled = done + taken, filled + taken
            if filled == most:
                yield _scratch.words[: filled * size].reshape(filled, size), out[row : row + filled]
                row, filled = row + filled, 0
    if filled:
        yield _scratch.words[: filled * size].reshape(filled, size), out[row : row + filled]


def _write(draw: Draw, block: int, words: int, at: int) -> None:
    start, size = at * _WORD_BYTES, words * _WORD_BYTES
    draw.stream.write(draw.nonce, block, size, _scratch.bytes[start : start + size + _SLACK])


def _padded(values: int) -> int:
    """Words for so many values: whole blocks of the cipher."""
    return -(-values // _AES_WORDS) * _AES_WORDS
