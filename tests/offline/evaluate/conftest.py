"""An evaluation of the digits' profile with tiny budgets, run once by the real command, and stopped once half-way."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from guard.offline.evaluate.command import evaluate_to
from guard.offline.evaluate.request import Request
from guard.offline.evaluate.results import Evaluation
from guard.profile import spec, store
from tests.support import digits
from tests.support.command import guard
from tests.support.profiles import digits_profile, plain_profile

ATTACKS = ("FGSM", "DeepFool", "Square", "Spatial", "Patch")
NAMED = tuple(word for name in ATTACKS for word in ("--attacks", name))
IMAGES = 6
MASKS = spec.OcclusionSpec(image_px=(8, 8), patch_px=2, grid=4, fill=(0.0,), pairs="skip")


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


@dataclass(frozen=True)
class Heated:
    """An evaluation of a profile with occlusion, what asked for it, and its page."""

    evaluation: Evaluation
    request: Request

    @property
    def file(self) -> Path:
        """The page."""
        return self.request.out / "report.html"


@pytest.fixture(scope="session")
def heated(tmp_path_factory: pytest.TempPathFactory) -> Heated:
    """Digits are too small to be covered in parts by default; here they are, and what is new has another's scores."""
    folder, profile = tmp_path_factory.mktemp("heated"), plain_profile()
    parts = [
        replace(part, scores=dict(part.scores) | {MASKS.name: part.scores["confidence"]})
        for part in (profile.reference, profile.calibration)
    ]
    detectors = (*profile.detectors, MASKS)
    store.save(replace(profile, detectors=detectors, reference=parts[0], calibration=parts[1]), folder / "profile")
    (folder / "digits.onnx").write_bytes(digits.onnx_file().read_bytes())
    images, labels = digits.load_data().test
    np.savez(folder / "test.npz", images=images[:40], labels=labels[:40])
    request = Request(
        profile=folder / "profile",
        model=folder / "digits.onnx",
        data=folder / "test.npz",
        out=folder / "out",
        attacks=("FGSM", "DeepFool"),
        images=IMAGES,
    )
    return Heated(evaluate_to(request, Console(quiet=True)), request)
