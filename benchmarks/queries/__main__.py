"""Run the table: `python -m benchmarks.queries --data FOLDER`."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import cv2
import numpy as np
import torch
import typer
from rich.console import Console
from torch import nn

from benchmarks import data as images_of
from benchmarks.detection.subjects import EVALUATION, SUBJECTS, Name
from benchmarks.detection.workshop import PROFILE, WORK, Workshop
from benchmarks.engine.table import machine
from benchmarks.queries import attacks, measure, table
from benchmarks.queries.benign import STREAMS, slightly_changed
from benchmarks.queries.verdicts import Verdicts, verdicts_of
from benchmarks.queries.watchers import BlacklightWatcher, GuardWatcher, Watcher
from guard.offline.options import Options
from guard.queries.calibrate import radii_of
from guard.queries.fingerprint import Fingerprinter
from guard.queries.memory import Radii
from guard.values import Float32Array, IntArray

_LIMIT = 3
_LOWER = 2
_TIMED = 300
_OTHERS = 2000
_CALIBRATION = 2000
_FEWER = 100
_Watchers: TypeAlias = dict[str, Callable[[], Watcher]]
_console = Console()


class Subject(StrEnum):
    """Whose images."""

    MNIST = "mnist"
    CIFAR10 = "cifar10"


class Part(StrEnum):
    """What is measured: attacks; or honest clients, before Guard's memory or Blacklight's."""

    ATTACKS = "attacks"
    GUARD = "guard"
    BLACKLIGHT = "blacklight"


@dataclass(frozen=True, slots=True)
class _Kind:
    """A classifier and its images, how far attacks may go there, and how many queries they have."""

    name: Name
    load: Callable[..., images_of.Images]
    linf: float
    l2: float
    queries: int

    @property
    def title(self) -> str:
        """What tables call it."""
        return SUBJECTS[self.name].title


_SLOW = 300
"""Queries at most where the classifier is ten times slower."""
_CHANGED = 500
"""Queries at most for attacks that change each: more don't make them win."""


@dataclass(frozen=True, slots=True)
class _Size:
    images: int
    clients: int
    seed: int


def main(  # noqa: PLR0917 - options of a command line
    data: Annotated[Path, typer.Option(help="Folder with mnist.npz and cifar10-jpeg.zip.")],
    out: Annotated[Path, typer.Option(help="Where queries.json and queries.md go.")] = Path("benchmarks/results"),
    images: Annotated[int, typer.Option(help="Test images that each attack is run on.")] = 50,
    queries: Annotated[int, typer.Option(help="Queries that an attack has for each image, at most.")] = 2000,
    clients: Annotated[int, typer.Option(help="Benign clients of a hundred images each.")] = 500,
    seed: Annotated[int, typer.Option(help="Of the attacks and the benign clients.")] = 0,
    only: Annotated[list[Subject] | None, typer.Option(help="Of these images; what is there of others stays.")] = None,
    part: Annotated[list[Part] | None, typer.Option(help="These parts; what is there of others stays.")] = None,
    work: Annotated[Path, typer.Option(help="Where profiles go, those of benchmarks.detection.")] = WORK,
) -> None:
    """Measure the memory of queries beside Blacklight, and write the table."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    size = _Size(images, clients, seed)
    for subject, chosen in itertools.product(only or Subject, part or Part):
        kind, about = _kind(subject, queries), machine("benchmarks.queries")
        found = _measure(kind, chosen, data, size, work)
        table.put(out, kind.title, chosen.value, {"about": about} | found)
    _console.print(f"written to {out}/queries.json and .md")


def _kind(subject: Subject, queries: int) -> _Kind:
    if subject is Subject.MNIST:
        return _Kind(Name.MNIST, images_of.load_mnist, 0.3, 4.0, queries)
    return _Kind(Name.CIFAR10, images_of.load_cifar10, 8 / 255, 1.75, min(queries, _SLOW))


def _measure(kind: _Kind, part: Part, data: Path, size: _Size, work: Path) -> dict[str, Any]:
    test = kind.load(data, "test")
    fresh = test.pixels[4 * size.images :]
    # Of those that no profile was made of.
    test = images_of.Images(test.pixels[EVALUATION][: 4 * size.images], test.labels[EVALUATION][: 4 * size.images])
    benign = kind.load(data, "train", size.clients * 100 + _CALIBRATION).pixels
    calibration, benign = benign[:_CALIBRATION], benign[_CALIBRATION:]
    shape = benign.shape[1:]
    radii = _radii(calibration)
    watchers: _Watchers = {
        "Guard": lambda: GuardWatcher(shape, limit=_LIMIT, radii=radii),
        f"Guard, limit {_LOWER}": lambda: GuardWatcher(shape, limit=_LOWER, radii=radii),
        "Blacklight": lambda: BlacklightWatcher(shape),
    }
    if part is Part.ATTACKS:
        with _verdicts(kind.name, data, work) as verdicts:
            rows = list(_attacks(kind, test, benign[:_OTHERS], watchers, size, verdicts))
        return {"radii": asdict(radii), "queries": kind.queries, "rows": rows}
    if part is Part.GUARD:
        del watchers["Blacklight"]
        rows = list(_benign(kind.title, benign, fresh, watchers, size))
        return {"radii": asdict(radii), "rows": rows, "microseconds": _timed(benign, shape, radii)}
    # The published method is too slow to show it everything.
    few = replace(size, clients=min(size.clients, _FEWER))
    return {"rows": list(_benign(kind.title, benign, fresh, {"Blacklight": watchers["Blacklight"]}, few))}


@contextmanager
def _verdicts(name: Name, data: Path, work: Path) -> Iterator[Verdicts]:
    """By the profile that the table of detection is of, which is made where it isn't there."""
    workshop = Workshop(name, work / name.value, 0, 0, _console)
    workshop.fill(data)
    workshop.calibrate(PROFILE, Options(seed=0))
    with verdicts_of(workshop.folder / PROFILE, workshop.model) as verdicts:
        yield verdicts


def _attacks(  # noqa: PLR0917 - what attacks, and what looks on
    kind: _Kind,
    test: images_of.Images,
    others: Float32Array,
    watchers: _Watchers,
    size: _Size,
    verdicts: Verdicts,
) -> Iterator[dict[str, Any]]:
    net = SUBJECTS[kind.name].net()
    correct = _correct(net, test)[: size.images]
    seeds = [(test.pixels[i : i + 1], size.seed + int(i)) for i in correct]
    for attack, changed in itertools.product(attacks.ATTACKS, (False, True)):
        transform = slightly_changed if changed else None
        budget = attacks.Budget(kind.linf, kind.l2, min(kind.queries, _CHANGED) if changed else kind.queries)
        runs = [_run(attack, net, x, budget, seed=seed, transform=transform) for x, seed in seeds]
        accused = verdicts([run.winner for run in runs if run.winner is not None])
        for condition, (name, make) in itertools.product(measure.CONDITIONS, watchers.items()):
            if (condition == "changed") != changed or (name == "Blacklight" and condition in {"paced", "rotated"}):
                continue  # it knows neither clients nor time
            row = {"attack": attack, "condition": condition, "watcher": name}
            row |= asdict(measure.catch(runs, condition, make, others, accused))
            _console.print(kind.title, row, highlight=False)
            yield row


def _run(attack: str, net: nn.Module, x: Float32Array, budget: attacks.Budget, **how: Any) -> attacks.Run:
    """An attack, and of what it sent as much as is looked at."""
    run = attacks.run(attack, net, x, budget, **how)
    return replace(run, sent=run.sent[: measure.LOOK_AT_MOST].copy())


def _benign(
    title: str, images: Float32Array, fresh: Float32Array, watchers: _Watchers, size: _Size
) -> Iterator[dict[str, Any]]:
    shown, unseen = images[: size.clients * 100], fresh[: size.clients * 100]
    streams: dict[str, Sequence[Iterable[Float32Array]]] = {
        f"{each} different images each": measure.in_parts(shown, each) for each in (10, 100, 1000)
    }
    streams |= {f"{each} different test images each": measure.in_parts(unseen, each) for each in (10, 100)}
    for name, make in watchers.items():
        drifting = {kind: measure.drifting(kind, images, min(size.clients, _FEWER), 20, size.seed) for kind in STREAMS}
        for kind, clients in (streams | drifting).items():
            if not clients:  # fewer images than one such client sends
                continue
            flagged = measure.clients_flagged(clients, make())
            row = {"kind": kind, "watcher": name, **asdict(flagged)}
            _console.print(title, row, highlight=False)
            yield row


def _timed(benign: Float32Array, shape: tuple[int, ...], radii: Radii) -> dict[str, float]:
    """Median time of a fingerprint, and of a whole look at a memory that is as full as the images make it."""
    fingerprinter = Fingerprinter(bytes(32), "model", shape, 1.0)
    watcher = GuardWatcher(shape, limit=_LIMIT, radii=radii)
    for index, image in enumerate(benign):
        watcher.flags(image, f"{index % 100}", float(index))
    prints, looks = [], []
    for image in benign[:_TIMED]:
        started = time.perf_counter()
        fingerprinter.prints(image[None])
        prints.append(time.perf_counter() - started)
        started = time.perf_counter()
        watcher.flags(image[..., ::-1], "new", float(len(benign)))
        looks.append(time.perf_counter() - started)
    return {"fingerprint": 1e6 * float(np.median(prints)), "look": 1e6 * float(np.median(looks))}


def _radii(calibration: Float32Array) -> Radii:
    found = radii_of(calibration, (0.0, 1.0))
    assert found is not None  # noqa: S101 - they are images, and enough
    return Radii(found.client, found.everyone)


@torch.no_grad()
def _correct(net: nn.Module, test: images_of.Images) -> IntArray:
    labels = net(torch.from_numpy(test.pixels)).argmax(1).numpy()
    return np.flatnonzero(labels == test.labels)


if __name__ == "__main__":
    typer.run(main)
