"""Inputs of recorded requests, each in a file of its own: encrypted, for a time, and within bounds.

A file is a mark of its form, the id of the key, a nonce, and what AES-256-GCM makes of the tensors; the decision's id
is authenticated with them, so that no file passes for another's. Its name begins with when it expires.
"""

from __future__ import annotations

import heapq
import io
import os
import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
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

_BLOCK_BYTES: Final = 4096
_STAT_BLOCK_BYTES: Final = 512
"""The unit of `st_blocks`, whatever the file system's is."""

_NAME = re.compile(r"(\d{10,12})-([0-9A-Za-z-]+)\.sealed")

Tensors = Mapping[str, npt.NDArray[np.uint8]]
"""By name, the bytes of each tensor, as they came."""


class TooLarge(Exception):
    """An input takes more than is worth keeping. It never leaves this package."""


class Captures:
    """Keeps inputs below `folder`. For one thread; `nbytes` for any.

    `max_bytes` is what files take on the disk, in whole blocks. What each call costs does not depend on how many there
    are: those of a Guard before are looked at once, in the beginning.
    """

    def __init__(self, folder: Path, *, ttl_s: float, max_bytes: int, now_s: Callable[[], float] = time.time) -> None:
        self._folder, self._ttl_s, self._max_bytes, self._now_s = folder / FOLDER, ttl_s, max_bytes, now_s
        self._kept = dict(_found(self._folder))
        latest_s = now_s() + ttl_s  # for those before, too, where inputs were kept for longer
        self._order = [(min(_expires_s(name), latest_s), name) for name in self._kept]
        heapq.heapify(self._order)
        self._bytes = sum(self._kept.values())
        self._folder_bytes = _taken(self._folder) if self._folder.is_dir() else 0

    @property
    def nbytes(self) -> int:
        """What inputs take on the disk, with the folder they are in."""
        return self._bytes + self._folder_bytes

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
        self._make_room(_blocks(len(sealed)))
        self._folder.mkdir(mode=0o750, exist_ok=True)
        try:
            _write(path, sealed)
            taken, self._folder_bytes = _taken(path), _taken(self._folder)
        except OSError:
            path.unlink(missing_ok=True)
            raise
        self._kept[path.name] = taken
        self._bytes += taken
        heapq.heappush(self._order, (expires_s, path.name))
        return f"{FOLDER}/{path.name}", float(int(expires_s))

    def forget(self, reference: str) -> None:
        """Remove an input whose record could not be written."""
        path = self._folder / Path(reference).name
        path.unlink(missing_ok=True)
        self._bytes -= self._kept.pop(path.name, 0)

    def expire(self) -> None:
        """Remove what has expired, and what is more than all may take now."""
        self._make_room(0)

    def _make_room(self, size: int) -> None:
        """Remove what has expired, and those that expire next until there is room."""
        now_s = self._now_s()
        while self._order and (self._order[0][0] <= now_s or self._bytes + size > self._max_bytes):
            _, name = self._order[0]
            (self._folder / name).unlink(missing_ok=True)
            heapq.heappop(self._order)
            self._bytes -= self._kept.pop(name, 0)  # of one that was forgotten, nothing


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
        DataError: there is no such file, it can't be read, it was tampered with, or none of the keys is the one.
    """
    try:
        content = path.read_bytes()
    except OSError as exc:
        gone = isinstance(exc, FileNotFoundError)
        why = "the input may have expired" if gone else "look as the user that Guard runs as, or as one of its group"
        raise DataError(f"{path} can't be read ({exc.strerror}): {why}") from exc
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


def _found(folder: Path) -> Iterator[tuple[str, int]]:
    """Names of the inputs in a folder, and what they take."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if _NAME.fullmatch(path.name):
            yield path.name, _taken(path)


def _expires_s(name: str) -> float:
    return float(name.partition("-")[0])


def _taken(path: Path) -> int:
    """What a file or a folder takes on the disk, also where the file system does not say so yet."""
    about = path.stat()
    return max(about.st_blocks * _STAT_BLOCK_BYTES, _blocks(about.st_size))


def _blocks(size: int) -> int:
    """Bytes in whole blocks, of the size that most file systems have."""
    return -(-size // _BLOCK_BYTES) * _BLOCK_BYTES


def _write(path: Path, content: bytes) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
    try:
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(file, rest) :]
    finally:
        os.close(file)
