"""Naive baselines beside Guard: principal components of inputs, and of what the model computes inside.

    python -m benchmarks.detection.projection mnist --data FOLDER

Two scores in each space. *Residual*: how far an input lies outside the components that hold 95 % of the variance of
clean samples. *Tail*: how large it is along the others, each in units of its own deviation, which is where Hendrycks
and Gimpel (2017) saw adversarial images and Carlini and Wagner (2017) only artefacts of MNIST's black margin.
Components are those of the samples that Guard's networks are trained on, limits are set by its other calibration
samples, half of them under the conditions that it expects, and attacks are those of the evaluation, as it crafted them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple

import cv2
import numpy as np
import torch
import typer
from rich.console import Console

from benchmarks.detection.subjects import SUBJECTS, Name
from benchmarks.detection.workshop import WORK, Workshop
from guard.model import inner
from guard.model.onnx import OnnxBackend
from guard.offline.conditions import EXPECTED, drawn
from guard.offline.evaluate.command import KEPT
from guard.offline.evaluate.craft import Crafter, Victim
from guard.offline.evaluate.kept import Kept
from guard.offline.evaluate.measure import craft_all
from guard.offline.evaluate.results import Count
from guard.offline.evaluate.samples import read
from guard.offline.evaluate.suite import find
from guard.offline.evaluate.target import Answers
from guard.offline.progress import Reporter
from guard.offline.view import View
from guard.offline.whitebox import best_white_box
from guard.profile import store
from guard.profile.profile import Profile
from guard.values import Float32Array, Float64Array

RATE: Final = 0.05
_RESULTS = Path("benchmarks/results")
_FIT = 0.4
_ALL = 5000
_VARIANCE = 0.95
_LEAST_DEVIATION = 1e-3
_ATTACKS: Final = {
    Name.MNIST: ("FGSM, L-inf 0.3", "PGD, L-inf 0.3", "PGD L2, L2 2", "C&W, L2", "DeepFool, L2", "JSMA, gamma 0.12"),
    Name.CIFAR10: (
        "FGSM, L-inf 8/255",
        "PGD, L-inf 8/255",
        "PGD L2, L2 1",
        "C&W, L2",
        "DeepFool, L2",
        "JSMA, gamma 0.03",
    ),
}


class Components(NamedTuple):
    """The mean (d,), axes (d, d) by falling deviation, deviations (d,), and how many hold most of the variance."""

    mean: Float64Array
    axes: Float64Array
    deviations: Float64Array
    leading: int

    @classmethod
    def of(cls, vectors: Float64Array) -> Components:
        """Of vectors (n, d)."""
        mean = vectors.mean(axis=0)
        _, values, axes = np.linalg.svd(vectors - mean, full_matrices=False)
        shares = np.cumsum(values**2) / (values**2).sum()
        return cls(mean, axes.T, values / np.sqrt(len(vectors)), int(np.searchsorted(shares, _VARIANCE)) + 1)

    def residual(self, vectors: Float64Array) -> Float64Array:
        """Distance of vectors (n, d) from the leading components' plane, (n,)."""
        found: Float64Array = np.linalg.norm(self._coefficients(vectors)[:, self.leading :], axis=1)
        return found

    def tail(self, vectors: Float64Array) -> Float64Array:
        """Root mean square of the coefficients beyond the leading ones, in their own deviations, (n,)."""
        scaled = self._coefficients(vectors) / np.maximum(self.deviations, _LEAST_DEVIATION)
        found: Float64Array = np.sqrt((scaled[:, self.leading :] ** 2).mean(axis=1))
        return found

    def _coefficients(self, vectors: Float64Array) -> Float64Array:
        return (vectors - self.mean) @ self.axes


def main(  # noqa: PLR0917 - options of a command line
    name: Annotated[Name, typer.Argument(help="The model and its data.")],
    data: Annotated[Path, typer.Option(help="Folder with mnist.npz and cifar10-jpeg.zip.")] = Path("data"),
    out: Annotated[Path, typer.Option(help="Where detection-NAME-projection.json and .md go.")] = _RESULTS,
    work: Annotated[Path, typer.Option(help="Where the evaluation's files are.")] = WORK,
    images: Annotated[int, typer.Option(help="Images that the evaluation attacked.")] = 200,
    seed: Annotated[int, typer.Option(help="That of the evaluation.")] = 0,
) -> None:
    """Measure what projections catch of attacks that an evaluation has crafted."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    workshop = Workshop(name, work / name.value, images, seed, Console())
    workshop.fill(data)
    found = measure(workshop)
    file = out / f"detection-{name.value}-projection"
    file.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    file.with_suffix(".md").write_text(markdown(SUBJECTS[name].title, found), encoding="utf-8")


def measure(workshop: Workshop) -> dict[str, Any]:
    """What each score catches of each attack, and flags of honest images, at a limit for `RATE`."""
    profile = store.load(workshop.folder / "profile")
    info = profile.model
    content = (workshop.folder / "model.onnx").read_bytes()
    backend = OnnxBackend(content, info)
    view, rng = View(info), np.random.default_rng(workshop.seed)
    with np.load(workshop.clean) as clean:
        samples = clean["images"][np.random.default_rng(workshop.seed).permutation(len(clean["images"]))]
    fit, others = samples[: round(_FIT * len(samples))], samples[round(_FIT * len(samples)) :].copy()
    half = len(others) // 2
    others[:half] = view.own(drawn(EXPECTED, view.view(others[:half]), rng).images)
    opened = inner.looked_into(content, info, fit[:2])

    def inputs(x: Float32Array) -> Float64Array:
        return x.reshape(len(x), -1).astype(np.float64)

    def features(x: Float32Array) -> Float64Array:
        return inner.features_of(opened, info, x).astype(np.float64)

    sets = dict(_attacked(workshop, backend, profile))
    rows = []
    for space, vectors in (("input", inputs), ("activations", features)):
        components = Components.of(vectors(fit))
        for score, by in (("residual", components.residual), ("tail", components.tail)):
            rows.append({"space": space, "score": score, "flagged": _flagged(vectors, by, others, sets)})
    backend.close()
    return {"rate": RATE, "seed": workshop.seed, "attacked": workshop.images, "rows": rows}


def _flagged(
    vectors: Callable[[Float32Array], Float64Array],
    score: Callable[[Float64Array], Float64Array],
    benign: Float32Array,
    sets: Mapping[str, Float32Array],
) -> dict[str, Any]:
    limit = np.quantile(score(vectors(benign)), 1 - RATE)
    flags = {title: score(vectors(x)) > limit for title, x in sets.items() if len(x)}
    return {title: Count(int(each.sum()), len(each)).as_json() for title, each in flags.items()}


def _attacked(workshop: Workshop, backend: OnnxBackend, profile: Profile) -> Iterator[tuple[str, Float32Array]]:
    """Honest images of the evaluation, and by title the attacks that won, in the model's units."""
    view = View(profile.model)
    found = read(workshop.folder / "held-out.npz", None, profile, most=_ALL, seed=workshop.seed)
    images, answers = found.images, Answers(backend)
    yield "honest images", view.own(images)
    labels = answers.labels(images)
    right = np.flatnonzero(labels == found.labels)[: workshop.images]
    reporter = Reporter(workshop.console)
    box = best_white_box(backend, view.own(images[:1000]), seed=workshop.seed, reporter=reporter)
    victim = Victim(answers, box.module, box.exact, backend.info.fingerprint, lambda: box.module)
    crafter = Crafter(victim, workshop.seed, Kept(workshop.folder / "report" / KEPT))
    attacks = [find(title) for title in _ATTACKS[workshop.name]]
    for made in craft_all(crafter, attacks, images[right], labels[right], reporter):
        yield made.attack.title, view.own(made.images)


def markdown(title: str, found: dict[str, Any]) -> str:
    """The scores side by side."""
    titles = list(found["rows"][0]["flagged"])
    lines = [
        f"# Projections: {title}",
        "",
        f"Principal components of clean samples, each score alone, at a limit that {found['rate']:.0%} of calibration",
        "samples exceed, half of them under the conditions that are expected. Beside Guard's own table.",
        "",
        "| space | score | " + " | ".join(titles) + " |",
        "| --- | --- |" + " --- |" * len(titles),
    ]
    for row in found["rows"]:
        cells = [f"{count['share']:.1%} ({count['count']} of {count['of']})" for count in row["flagged"].values()]
        lines.append(f"| {row['space']} | {row['score']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    typer.run(main)
