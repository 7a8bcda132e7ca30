"""Certified accuracy: `python -m benchmarks.detection.certified --data FOLDER`.

Of test images, the share that the model gets right and Guard certifies within a radius, as it would in a policy: the
sequential test, with the cap that a policy gives it, and with ten times that. The models are those trained under the
certificates' noise.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import cv2
import numpy as np
import torch
import typer
from torch import nn

from benchmarks import models
from benchmarks.detection.subjects import SUBJECTS, Name, Split
from benchmarks.engine.subject import screen
from guard.model.onnx import OnnxBackend
from guard.model.sweep import best_batch
from guard.offline.evaluate.results import Count
from guard.profile.spec import SmoothingSpec
from guard.screen.build import build_detectors
from guard.screen.engine import Engine
from guard.screen.smoothing import at_radius
from guard.screen.trial import MODEL
from guard.values import Certified, ModelInfo, OutputKind

RADII: Final = (0.25, 0.5)
CAPS: Final = (1, 10)
"""Times the cap of a policy."""
_SIGMA: Final = models.NOISE_SIGMA
_RESULTS: Final = Path("benchmarks/results")
_PUBLISHED: Final = (
    "Cohen et al. (ICML 2019), CIFAR-10, sigma .25: .600 at .25 and .428 at .5, by a ResNet-110 and 100,000 copies an "
    "image. Comparable in part: the same noise and radii, on the same images but for a JPEG in between; another and "
    "larger model, of which their smoothed answer is certified; here it is the model's own answer to the clean image."
)


@dataclass(frozen=True, slots=True)
class Model:
    """A model under the noise of its certificates, with images of one shape that it has not seen."""

    title: str
    net: nn.Module
    shape: tuple[int, ...]
    split: Split


def measure(model: Model, radii: Sequence[float] = RADII, caps: Sequence[int] = CAPS) -> Iterator[dict[str, Any]]:
    """A row for each radius and each cap."""
    info = ModelInfo(
        model.title, "input", "logits", "FP32", model.shape, models.CLASSES, (0.0, 1.0), OutputKind.LOGITS, model.title
    )
    replica = OnnxBackend(models.to_onnx(model.net, model.shape), info)
    replica.preferred_batch = best_batch(replica).batch
    try:
        for radius in radii:
            design = at_radius(SmoothingSpec(sigma=_SIGMA, radius=radius), radius)
            for times in caps:
                yield _row(model, replica, design.model_copy(update={"cap": times * design.cap}))
    finally:
        replica.close()


def _row(model: Model, replica: OnnxBackend, design: SmoothingSpec) -> dict[str, Any]:
    # No secret: a table repeats.
    engine = Engine(
        detectors=build_detectors((design,)), backends={MODEL: replica}, secret=b"certified", max_queued_items=4096
    )
    engine.start()
    try:
        done = screen(engine, model.split.images)
    finally:
        engine.stop()
    certified = np.array([isinstance(each.findings[0], Certified) for each in done])
    right = np.array([each.label for each in done]) == model.split.labels
    spent = [sum(each.spent.values()) for each in done]
    return {
        "model": model.title,
        "sigma": design.sigma,
        "radius": design.radius,
        "alpha": design.alpha,
        "cap": design.cap,
        "right": Count(int(right.sum()), len(done)).as_json(),
        "certified": Count(int(certified.sum()), len(done)).as_json(),
        "certified_and_right": Count(int((certified & right).sum()), len(done)).as_json(),
        "mean_evaluations": float(np.mean(spent)),
    }


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The table."""
    lines = [
        "# Certified accuracy",
        "",
        "Of test images that nothing was calibrated on: right, and certified within an L2 radius. The first row of a",
        "radius has the most evaluations that a policy lets a request wait for, the second ten times as many.",
        "",
        "| model | radius | at most | evaluations, mean | right | certified | certified and right |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        counts = " | ".join(_share(row[key]) for key in ("right", "certified", "certified_and_right"))
        lines.append(
            f"| {row['model']}, trained and smoothed with sigma {row['sigma']:g} | {row['radius']:g} | {row['cap']} | "
            f"{row['mean_evaluations']:.0f} | {counts} |"
        )
    return "\n".join([*lines, "", f"A certificate is false with a chance of {rows[0]['alpha']:g}. {_PUBLISHED}", ""])


def _share(count: dict[str, Any]) -> str:
    low, high = count["interval_95"]
    return f"{count['share']:.1%} ({count['count']} of {count['of']}, {low:.1%} to {high:.1%})"


def main(
    data: Annotated[Path, typer.Option(help="Folder with mnist.npz and cifar10-jpeg.zip.")] = Path("data"),
    out: Annotated[Path, typer.Option(help="Where certified.json and .md go.")] = _RESULTS,
    mnist: Annotated[int, typer.Option(help="Images of MNIST.")] = 4000,
    cifar10: Annotated[int, typer.Option(help="Images of CIFAR-10, whose model takes forty times as long.")] = 100,
) -> None:
    """Measure, and write the table."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    rows: list[dict[str, Any]] = []
    for name, net, count in ((Name.MNIST, models.lenet5(), mnist), (Name.CIFAR10, models.resnet20(), cifar10)):
        subject = SUBJECTS[name]
        _, held_out = subject.splits(data)
        split = Split(held_out.images[:count], held_out.labels[:count])
        rows += measure(Model(subject.title, net, subject.shape, split))
    (out / "certified.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    (out / "certified.md").write_text(markdown(rows), encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
