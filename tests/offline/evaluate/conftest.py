"""An evaluation of the digits' profile with tiny budgets, run once by the real command, and stopped once half-way."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from guard.profile import store
from tests.support import digits
from tests.support.command import guard
from tests.support.profiles import digits_profile

ATTACKS = ("FGSM", "DeepFool", "Square", "Spatial", "Patch")
NAMED = tuple(word for name in ATTACKS for word in ("--attacks", name))
IMAGES = 6


@dataclass(frozen=True)
class Report:
    """What one run left: its results, its page, its folder, and what it printed."""

    results: dict[str, Any]
    page: str
    folder: Path
    output: str


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits' model, its profile, and digits that neither has seen, with their labels."""
    folder = tmp_path_factory.mktemp("evaluate")
    (folder / "digits.onnx").write_bytes(digits.onnx_file().read_bytes())
    store.save(digits_profile(), folder / "profile")
    images, labels = digits.load_data().test
    np.savez(folder / "test.npz", images=images, labels=labels)
    np.savez(folder / "images.npz", images=images)
    return folder


def arguments(files: Path, out: Path, *more: object, data: str = "test.npz") -> tuple[object, ...]:
    """Of the command, without the attacks."""
    return (
        "evaluate",
        files / "profile",
        "--model",
        files / "digits.onnx",
        "--data",
        files / data,
        "--out",
        out,
        "--images",
        IMAGES,
        *more,
    )


@pytest.fixture(scope="session")
def report(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Report:
    """The command's report on a few attacks."""
    out = tmp_path_factory.mktemp("report") / "made"
    ended = guard(*arguments(files, out, *NAMED), cwd=files)
    assert (ended.returncode, ended.stderr) == (0, "")
    results = json.loads((out / "evaluation.json").read_text(), parse_constant=pytest.fail)
    return Report(results, (out / "report.html").read_text(), out, ended.stdout)
