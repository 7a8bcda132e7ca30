"""Run the table: `python -m benchmarks.queries --data FOLDER`."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import cv2
import numpy as np
import torch
import typer
from rich.console import Console
from torch import nn

from benchmarks import data as images_of
from benchmarks import models
from benchmarks.engine.table import machine
from benchmarks.queries import attacks, measure
from benchmarks.queries.benign import STREAMS, slightly_changed
from benchmarks.queries.table import write
from benchmarks.queries.watchers import BlacklightWatcher, GuardWatcher, Watcher
from guard.queries.calibrate import radii_of
from guard.queries.fingerprint import Fingerprinter
from guard.queries.memory import Radii
from guard.values import Float32Array, IntArray

_LIMIT = 3
_TIMED = 300
_OTHERS = 2000
_CALIBRATION = 2000
_FEWER = 100
_Watchers: TypeAlias = dict[str, Callable[[], Watcher]]
_console = Console()


@dataclass(frozen=True, slots=True)
class _Subject:
    name: str
    net: Callable[[], nn.Module]
    load: Callable[..., images_of.Images]
    budget: attacks.Budget


@dataclass(frozen=True, slots=True)
class _Size:
    images: int
    clients: int
    seed: int


def main(  # noqa: PLR0917 - options of a command line
    data: Annotated[Path, typer.Option(help="Folder with mnist.npz and cifar10-jpeg.zip.")],
    out: Annotated[Path, typer.Option(help="Where queries.json and queries.md go.")] = Path("benchmarks/results"),
    images: Annotated[int, typer.Option(help="Test images that each attack is run on.")] = 50,
    queries: Annotated[int, typer.Option(help="Queries that an attack has for each image.")] = 400,
    clients: Annotated[int, typer.Option(help="Benign clients of a hundred images each.")] = 500,
    seed: Annotated[int, typer.Option(help="Of the attacks and the benign clients.")] = 0,
) -> None:
    """Measure the memory of queries beside Blacklight, and write the table."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    near, far = attacks.Budget(8 / 255, 1.75, queries), attacks.Budget(0.3, 4.0, queries)
    subjects = (
        _Subject("MNIST, LeNet-5", models.lenet5, images_of.load_mnist, far),
        _Subject("CIFAR-10, ResNet-20", models.resnet20, images_of.load_cifar10, near),
    )
    size = _Size(images, clients, seed)
    found = [_measure(subject, data, size) for subject in subjects]
    write({"about": machine("benchmarks.queries"), "limit": _LIMIT, "subjects": found}, out)
    _console.print(f"written to {out}/queries.json and .md")


def _measure(subject: _Subject, data: Path, size: _Size) -> dict[str, Any]:
    test = subject.load(data, "test")
    fresh = test.pixels[4 * size.images :]
    test = images_of.Images(test.pixels[: 4 * size.images], test.labels[: 4 * size.images])
    benign = subject.load(data, "train", size.clients * 100 + _CALIBRATION).pixels
    calibration, benign = benign[:_CALIBRATION], benign[_CALIBRATION:]
    shape = benign.shape[1:]
    radii = _radii(calibration)
    watchers: _Watchers = {
        "Guard": lambda: GuardWatcher(shape, limit=_LIMIT, radii=radii),
        "Blacklight": lambda: BlacklightWatcher(shape),
    }
    return {
        "name": subject.name,
        "radii": asdict(radii),
        "attacks": list(_attacks(subject, test, benign[:_OTHERS], watchers, size)),
        "benign": list(_benign(subject.name, benign, fresh, watchers, size)),
        "microseconds": _timed(benign, shape, radii),
    }


def _attacks(
    subject: _Subject, test: images_of.Images, others: Float32Array, watchers: _Watchers, size: _Size
) -> Iterator[dict[str, Any]]:
    net = subject.net()
    correct = _correct(net, test)[: size.images]
    for attack, changed in itertools.product(attacks.ATTACKS, (False, True)):
        transform = slightly_changed if changed else None
        seeds = [(test.pixels[i : i + 1], size.seed + int(i)) for i in correct]
        runs = [attacks.run(attack, net, x, subject.budget, seed=seed, transform=transform) for x, seed in seeds]
        conditions = measure.CONDITIONS[-1:] if changed else measure.CONDITIONS[:-1]
        for condition, (name, make) in itertools.product(conditions, watchers.items()):
            caught = measure.catch(runs, condition, make, others)
            row = {"attack": attack, "condition": condition, "watcher": name, **asdict(caught)}
            _console.print(subject.name, row, highlight=False)
            yield row


def _benign(
    subject: str, images: Float32Array, fresh: Float32Array, watchers: _Watchers, size: _Size
) -> Iterator[dict[str, Any]]:
    for name, make in watchers.items():
        # The published method is too slow to show it everything.
        many = size.clients if name == "Guard" else min(size.clients, _FEWER)
        streams: dict[str, Sequence[Iterable[Float32Array]]] = {
            f"{each} different images each": [images[i : i + each] for i in range(0, many * 100 - each + 1, each)]
            for each in (10, 100, 1000)
        }
        unseen = fresh[: many * 100]
        streams |= {
            f"{each} different test images each": [unseen[i : i + each] for i in range(0, len(unseen) - each + 1, each)]
            for each in (10, 100)
        }
        streams |= {kind: measure.drifting(kind, images, min(many, _FEWER), 20, size.seed) for kind in STREAMS}
        for kind, clients in streams.items():
            if not clients:  # fewer images than one such client sends
                continue
            flagged = measure.clients_flagged(clients, make())
            row = {"kind": kind, "watcher": name, **asdict(flagged)}
            _console.print(subject, row, highlight=False)
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
