"""Inputs of recorded requests, each in a file of its own: encrypted, for a time, and within bounds.

A file is a mark of its form, the id of the key, a nonce, and what AES-256-GCM makes of the tensors; the decision's id
is authenticated with them, so that no file passes for another's. Its name begins with when it expires.
"""

from __future__ import annotations

import io
import os
import re
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from guard.audit.finding import MOST_TENSORS, pieces
from guard.audit.keys import key_id
from guard.datatypes import BYTES
from guard.errors import DataError
from guard.values import InferRequest

FOLDER: Final = "captures"
_MARK = b"GUARD-CAPTURE-1\n"
_NONCE_BYTES = 12
_OVERHEAD_BYTES = 128
_LARGEST_SHARE = 4
"""One input takes so large a part of what all may take at most, or it is not kept."""

_NAME = re.compile(r"(\d{10,12})-([0-9A-Za-z-]+)\.sealed")

Tensors = Mapping[str, npt.NDArray[np.uint8]]
"""By name, the bytes of each tensor, as they came."""


class TooLarge(Exception):
    """An input takes more than is worth keeping. It never leaves this package."""


class Captures:
    """Keeps inputs below `folder`. For one thread; `nbytes` for any."""

    def __init__(self, folder: Path, *, ttl_s: float, max_bytes: int, now_s: Callable[[], float] = time.time) -> None:
        self._folder, self._ttl_s, self._max_bytes, self._now_s = folder / FOLDER, ttl_s, max_bytes, now_s
        there = sorted(self._folder.iterdir()) if self._folder.is_dir() else []
        self._kept = {path: path.stat().st_size for path in there if _NAME.fullmatch(path.name)}

    @property
    def nbytes(self) -> int:
        """What inputs take."""
        return sum(tuple(self._kept.values()))

    def keep(self, decision_id: str, request: InferRequest, key: bytes) -> tuple[str, float]:
        """Keep a request's tensors: the path of the file below the log's folder, and when it expires.

        Raises:
            TooLarge: they take too large a part of what all may take.
            OSError: the disk does not take them.
        """
        size = _OVERHEAD_BYTES + sum(len(piece) for each in request.inputs[:MOST_TENSORS] for piece in pieces(each))
        if size > self._max_bytes // _LARGEST_SHARE:
            raise TooLarge
        expires_s = self._now_s() + self._ttl_s
        path = self._folder / f"{int(expires_s):010d}-{decision_id}.sealed"
        sealed = seal(decision_id, request, key)
        self._make_room(len(sealed))
        self._folder.mkdir(mode=0o750, exist_ok=True)
        try:
            _write(path, sealed)
        except OSError:
            path.unlink(missing_ok=True)
            raise
        self._kept[path] = len(sealed)
        return f"{FOLDER}/{path.name}", float(int(expires_s))

    def forget(self, reference: str) -> None:
        """Remove an input whose record could not be written."""
        path = self._folder / Path(reference).name
        path.unlink(missing_ok=True)
        self._kept.pop(path, None)

    def expire(self) -> None:
        """Remove what has expired."""
        self._remove(path for path in tuple(self._kept) if _expires_s(path) <= self._now_s())

    def _make_room(self, size: int) -> None:
        self.expire()
        left = self.nbytes + size
        for path, taken in sorted(self._kept.items()):  # by when they expire
            if left <= self._max_bytes:
                return
            self._remove((path,))
            left -= taken

    def _remove(self, paths: Iterable[Path]) -> None:
        for path in paths:
            path.unlink(missing_ok=True)
            del self._kept[path]


def seal(decision_id: str, request: InferRequest, key: bytes) -> bytes:
    """A request's tensors, encrypted."""
    tensors = {
        f"{index:02d}": np.frombuffer(b"".join(pieces(each)), np.uint8)
        for index, each in enumerate(request.inputs[:MOST_TENSORS])
    }
    packed = io.BytesIO()
    np.savez(packed, allow_pickle=False, **tensors)
    nonce = secrets.token_bytes(_NONCE_BYTES)
    sealed = AESGCM(key).encrypt(nonce, packed.getvalue(), _bound(decision_id))
    return _MARK + bytes.fromhex(key_id(key)) + nonce + sealed


def unseal(decision_id: str, path: Path, keys: Iterable[bytes]) -> list[npt.NDArray[np.uint8]]:
    """The bytes of a request's tensors, in the request's order, opened with whichever of the keys it is.

    Raises:
        DataError: there is no such file, it was tampered with, or none of the keys is the one.
    """
    try:
        content = path.read_bytes()
    except OSError as exc:
        raise DataError(f"{path} can't be read ({exc.strerror}): the input may have expired") from exc
    at = len(_MARK) + len(key_id(b"")) // 2
    named, nonce, sealed = content[len(_MARK) : at].hex(), content[at : at + _NONCE_BYTES], content[at + _NONCE_BYTES :]
    key = next((each for each in keys if key_id(each) == named), None)
    if not content.startswith(_MARK) or key is None:
        raise DataError(f"{path} was encrypted with key {named or '?'}; give the file of that key with --key")
    try:
        packed = AESGCM(key).decrypt(nonce, sealed, _bound(decision_id))
    except InvalidTag as exc:
        raise DataError(f"{path} was tampered with, or belongs to another decision than {decision_id}") from exc
    with np.load(io.BytesIO(packed), allow_pickle=False) as tensors:
        return [tensors[name] for name in sorted(tensors.files)]


def texts_of(content: npt.NDArray[np.uint8], datatype: str) -> list[bytes]:
    """The elements of a BYTES tensor, each of which has its length in front; none of any other."""
    found, rest = list[bytes](), content.tobytes() if datatype == BYTES else b""
    while rest:
        length = int.from_bytes(rest[:4], "little")
        found.append(rest[4 : 4 + length])
        rest = rest[4 + length :]
    return found


def _bound(decision_id: str) -> bytes:
    return b"guard capture\0" + decision_id.encode()


def _expires_s(path: Path) -> float:
    match = _NAME.fullmatch(path.name)
    return float(match[1]) if match else 0.0


def _write(path: Path, content: bytes) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
    try:
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(file, rest) :]
    finally:
        os.close(file)
