"""Where commands write what a person asked for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from guard.errors import ConfigError, DataError


def make_folder(folder: Path, option: str) -> None:
    """Make a folder, and those around it, unless it is there.

    Raises:
        ConfigError: it can't be made or written to; the message names the command line's `option`.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise ConfigError(f"{option} {folder} can't be made a folder ({exc.strerror}); name another") from exc
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"{option} {folder} can't be written to; change its permissions, or name another")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """What is done within writes to a path that a person named.

    Raises:
        DataError: it can't.
    """
    try:
        yield
    except OSError as exc:
        raise DataError(
            f"{path} can't be written ({exc.strerror or exc}); make room or change permissions, or name another"
        ) from exc
