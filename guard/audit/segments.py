"""The log's files: segments of bounded size and age, of which the oldest go, and which one writer appends to."""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from guard.audit.chain import GENESIS, SEQUENCE_DIGITS, Link, read, write
from guard.errors import ConfigError

_NAME = re.compile(rf"guard-audit-(\d{{{SEQUENCE_DIGITS}}})\.jsonl")
_LOCK: Final = ".lock"
_PARTS = 8
"""A segment is closed once it holds so large a part of the time that records are kept, so that they go in parts."""

_Event = Mapping[str, Any]


def segments_of(folder: Path) -> list[Path]:
    """The segments in a folder, the oldest first: a name has the number of the first line."""
    return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))


def first_of(segment: Path) -> int:
    """The number of a segment's first line, by its name."""
    match = _NAME.fullmatch(segment.name)
    return int(match[1]) if match else 0


class Segments:
    """Appends to the log in a folder. For one thread; `nbytes` for any.

    `max_bytes` is what the log may take, less what `beside` says that others take of it. `removed` makes the event that
    says which segments went, and with which hash their last line ended.

    Raises:
        ConfigError: the folder can't be written to, or another Guard does.
    """

    def __init__(
        self,
        folder: Path,
        *,
        segment_bytes: int,
        max_bytes: int,
        retention_s: float,
        removed: Callable[[Sequence[str], str], _Event],
        beside: Callable[[], int] = lambda: 0,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._folder, self._removed, self._beside, self._now_s = folder, removed, beside, now_s
        self._segment_bytes, self._max_bytes, self._retention_s = segment_bytes, max_bytes, retention_s
        self._lock = _locked(folder)
        self._closed = {path: path.stat().st_size for path in segments_of(folder)}
        self._file: int | None = None
        self._path = folder
        self._size, self._opened_s = 0, 0.0
        self.last = _resumed(list(self._closed))

    @property
    def nbytes(self) -> int:
        """What the log takes."""
        return sum(tuple(self._closed.values())) + self._size

    def append(self, events: Sequence[_Event]) -> int:
        """Append events, and see to it that they are on the disk: how many of them are.

        Raises:
            OSError: none is that was not written before.
        """
        written = 0
        while written < len(events):
            try:
                written += self._append(events[written:])
            except OSError:
                if written:
                    return written
                raise
        return written

    def expire(self) -> None:
        """Remove what is older than records are kept, and what is more than the log may take now."""
        if self._file is not None and self._now_s() - self._opened_s > self._retention_s / _PARTS:
            self._close_segment()
        oldest = next(iter(self._closed), None)
        if oldest is not None and (self._is_old(oldest) or self.nbytes > self._max_bytes - self._beside()):
            self._make_room()

    def close(self) -> None:
        """Close the segment, and let another Guard write to the folder."""
        self._close_segment()
        os.close(self._lock)

    def _append(self, events: Sequence[_Event]) -> int:
        """Append as many as go into one segment."""
        self._make_room()
        lines, link, size = list[bytes](), self.last, self._size
        for event in events:
            line, link = write(event, link)
            lines.append(line)
            size += len(line)
            if size >= self._segment_bytes:
                break
        self._write(b"".join(lines), link)
        return len(lines)

    def _make_room(self) -> None:
        """Have a segment open that is not full, and remove closed ones that are too old or leave no room for it."""
        if self._file is not None and self._size >= self._segment_bytes:
            self._close_segment()
        if self._file is None:
            self._open_segment()
        going, left = [], self.nbytes - self._size + self._segment_bytes + self._beside()
        for path, size in self._closed.items():
            if left > self._max_bytes or self._is_old(path):
                going.append(path)
                left -= size
            else:
                break
        if there := [path for path in going if path.exists()]:  # what somebody else removed, Guard did not
            line, link = write(self._removed([path.name for path in there], _last_of(there[-1]).hash), self.last)
            self._write(line, link)  # first, so that no segment is ever missing without a word
        for path in going:
            path.unlink(missing_ok=True)
            del self._closed[path]

    def _is_old(self, path: Path) -> bool:
        try:
            return self._now_s() - path.stat().st_mtime > self._retention_s
        except OSError:
            return True

    def _open_segment(self) -> None:
        self._path = self._folder / f"guard-audit-{self.last.sequence + 1:0{SEQUENCE_DIGITS}d}.jsonl"
        self._closed.pop(self._path, None)
        # What an interrupted writer left without a whole line has this name.
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
        self._file = os.open(self._path, flags, 0o640)
        self._size, self._opened_s = 0, self._now_s()

    def _close_segment(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._closed[self._path] = self._size
            self._file, self._size = None, 0

    def _write(self, content: bytes, link: Link) -> None:
        """Write all of it, or nothing."""
        assert self._file is not None  # noqa: S101 - a segment is open
        try:
            rest = memoryview(content)
            while rest:
                rest = rest[os.write(self._file, rest) :]
            os.fdatasync(self._file)
        except OSError:
            os.ftruncate(self._file, self._size)
            raise
        self._size += len(content)
        self.last = link


def _locked(folder: Path) -> int:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError as exc:
        raise ConfigError(f"audit.folder {folder} can't be written to ({exc.strerror}); correct it") from exc
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        os.close(lock)
        raise ConfigError(
            f"audit.folder {folder} is another Guard's, which runs; give each a folder of its own"
        ) from exc
    return lock


def _resumed(segments: Sequence[Path]) -> Link:
    """Where the chain stands; what was interrupted at its end is not part of it."""
    for segment in reversed(segments):
        if (last := _last_of(segment)).hash != GENESIS:
            return last
    return Link()


def _last_of(segment: Path) -> Link:
    """The last whole line of a segment. Its number goes by the name, as that of a line that was tampered with can't."""
    with segment.open("rb") as file:
        whole = [line for line in file if line.endswith(b"\n")]
    if not whole:
        return Link()
    line = read(whole[-1].rstrip(b"\n"))
    return Link(first_of(segment) + len(whole) - 1, GENESIS[:-1] + "1" if line is None else line.link.hash)
