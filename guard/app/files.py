"""Whether files changed, told without reading them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TypeAlias

from guard.config import ModelPolicy

Stamp: TypeAlias = tuple[Path, tuple[int, ...] | None]
"""A file, and what changes when another one is in its place, its content changes or its permissions do; None if it
can't be seen. Symbolic links are followed, so that it changes when one on the way leads elsewhere: that is how a
mounted ConfigMap or Secret is updated."""


def stamp(path: Path) -> Stamp:
    """The stamp of a file."""
    try:
        seen = path.stat()
    except OSError:
        return path, None
    return path, (seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns)


def stamps_of(policy: ModelPolicy) -> tuple[Stamp, ...]:
    """The stamps of all files that a model is loaded from: its profile's, and its own."""
    return tuple(map(stamp, [policy.profile, *_inside(policy.profile), *([policy.model] if policy.model else ())]))


def _inside(directory: Path) -> Iterable[Path]:
    try:
        return sorted(directory.iterdir())
    except OSError:
        return ()
