"""A folder in which one subject is calibrated, attacked and evaluated, by what is behind Guard's own commands."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.console import Console

from benchmarks import models
from benchmarks.detection.subjects import SUBJECTS, Name
from guard.offline.command import calibrate_to
from guard.offline.evaluate.command import KEPT, evaluate_to
from guard.offline.evaluate.request import Request
from guard.offline.options import Options
from guard.offline.source import Source
from guard.profile import store

WORK: Final = Path(".cache/detection")
"""A folder with one for each subject."""
PROFILE: Final = "profile"
"""Of Guard as it is; others are of it with something left out."""


@dataclass(frozen=True, slots=True)
class Workshop:
    """Where the files of a subject are. `images` are attacked; crafted ones are kept for all profiles."""

    name: Name
    folder: Path
    images: int
    seed: int
    console: Console

    def fill(self, data: Path) -> None:
        """Put the model and both splits there."""
        subject = SUBJECTS[self.name]
        self.folder.mkdir(parents=True, exist_ok=True)
        calibration, evaluation = subject.splits(data)
        if not self.model.exists():  # another training gives another model, for which nothing kept would do
            self.model.write_bytes(models.to_onnx(subject.net(), subject.shape))
        np.savez(self.folder / "clean.npz", images=calibration.images)
        np.savez(self.folder / "held-out.npz", images=evaluation.images, labels=evaluation.labels)

    def calibrate(self, profile: str, options: Options) -> None:
        """Calibrate, unless that was done: delete the profile to do it again."""
        folder = self.folder / profile
        if (folder / store.MANIFEST).exists():
            self.console.print(f"{folder} is there already and is used: delete it to calibrate again")
            return
        calibrate_to(Source(self.model, None, None, (0.0, 1.0)), self.clean, folder, options, self.console)

    def evaluate(
        self, profile: str, report: str, attacks: tuple[str, ...] = (), *, quick: bool = False
    ) -> dict[str, Any]:
        """Attack and measure: all attacks, or those named, or a few."""
        request = Request(
            profile=self.folder / profile,
            model=self.model,
            data=self.folder / "held-out.npz",
            out=self.folder / report,
            attacks=attacks,
            images=self.images,
            quick=quick,
            seed=self.seed,
            command=shlex.join(
                [
                    "python",
                    "-m",
                    "benchmarks.detection",
                    self.name.value,
                    f"--images={self.images}",
                    f"--seed={self.seed}",
                ]
                + [f"--attacks={each}" for each in attacks]
            ),
            kept=self.folder / "report" / KEPT,
        )
        return evaluate_to(request, self.console).as_json()

    @property
    def model(self) -> Path:
        """What is guarded."""
        return self.folder / "model.onnx"

    @property
    def clean(self) -> Path:
        """What Guard is calibrated on."""
        return self.folder / "clean.npz"
