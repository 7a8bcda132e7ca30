"""What is there under a path, and why that can't be said."""

from __future__ import annotations

from pathlib import Path


def unseen(path: Path) -> str:
    """Why nobody can say what is there: `can't be read (Permission denied)`; "" where one can, of nothing too.

    A folder on the way may not be entered, or a name may be too long: pathlib raises for these or calls it nothing,
    which differs with Python's version.
    """
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError as exc:
        return f"can't be read ({exc.strerror})"
    return ""


def no_file(path: Path) -> str:
    """Why this names no file: `is not a file`, or as `unseen`; "" where it does."""
    return unseen(path) or ("" if path.is_file() else "is not a file")
