"""What took long, kept on disk by the hash of all it depends on: a run that was stopped goes on where it was."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from guard.output import make_folder, writing

Arrays: TypeAlias = dict[str, npt.NDArray[Any]]


class Kept:
    """Arrays in a folder, under their keys."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        make_folder(folder, "--out")  # it is beside the report

    def get(self, key: str) -> Arrays | None:
        """What was kept; None where there is nothing, or nothing that can be read."""
        try:
            content = (self._folder / f"{key}.npz").read_bytes()
            with np.load(
                io.BytesIO(content), allow_pickle=False
            ) as found:  # given a path, it leaves a damaged one open
                return dict(found)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None

    def put(self, key: str, arrays: Mapping[str, npt.ArrayLike]) -> None:
        """Keep them: the file is there whole, or not at all.

        Raises:
            DataError: they can't be.
        """
        partial = self._folder / f"{key}.partial"
        with writing(self._folder):
            with partial.open("wb") as file:
                np.savez_compressed(file, allow_pickle=False, **arrays)
            partial.rename(self._folder / f"{key}.npz")


def key_of(facts: Mapping[str, Any], *arrays: npt.NDArray[Any]) -> str:
    """The hash of facts and arrays."""
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode())
    for array in arrays:
        digest.update(f"{array.dtype}{array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
