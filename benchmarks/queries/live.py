"""Query attacks through a running sidecar: `python -m benchmarks.queries.live` (digits, or MNIST with --data FOLDER).

The embedded server has the model and the sidecar in front of it the profile that `python -m benchmarks.detection`
calibrates. The attacker asks over real connections, one query after the other, and sees what any client sees.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import cv2
import numpy as np
import torch
import typer
from rich.console import Console

from benchmarks.detection.subjects import SUBJECTS, Name, Split
from benchmarks.detection.workshop import WORK, Workshop
from benchmarks.engine.table import machine
from benchmarks.queries import live_table
from benchmarks.queries.attacker import Client, Hiding, Others, Session, attack, summary
from benchmarks.queries.attacks import Budget
from benchmarks.queries.service import DirectClient, HttpClient, Memory, model_server, sidecar
from guard.background import LoopThread
from guard.observe.logs import configure_logging
from guard.offline.options import Options
from guard.values import Float32Array

ATTACKS: Final = ("Square", "HopSkipJump")
FASTER: Final = 8640
"""Time runs so much faster: a memory of a day lasts 10 s, and ten minutes between two queries are .07 s."""

SMALLER: Final = 16
"""The memory is so much smaller than by default, and as many fewer queries of others come between."""

_DAY_S, _PACE_S = 86_400.0, 600.0
_CAPACITY, _BETWEEN = 65_536, 32
_MEMORY = Memory(_DAY_S / FASTER, _CAPACITY // SMALLER)
_PACED = Hiding(_PACE_S / FASTER, _BETWEEN // SMALLER)
_OUTWAITED, _WAITING = Memory(0.01, _CAPACITY // SMALLER), Hiding(0.0105)
_BUDGETS: Final = {Name.DIGITS: (0.25, 1.25), Name.MNIST: (0.3, 4.0)}
"""Distances at which the attacks succeed often where nothing defends."""

_PATIENCE = 8
_console = Console()


@dataclass(frozen=True, slots=True)
class Condition:
    """What stands in the attacker's way (nothing, the detectors, or also a memory), and how they hide."""

    defence: str
    name: str
    memory: Memory | None
    hiding: Hiding


CONDITIONS: Final = (
    Condition("none", "plain", None, Hiding()),
    Condition("detectors", "plain", None, Hiding()),
    Condition("detectors and memory", "plain", _MEMORY, Hiding()),
    Condition("detectors and memory", "paced", _MEMORY, _PACED),
    Condition("detectors and memory", "rotated", _MEMORY, Hiding(rotated=True)),
    Condition(
        "detectors and memory", "paced and rotated", _MEMORY, Hiding(_PACED.pause_s, _PACED.between, rotated=True)
    ),
    Condition("detectors and memory", "outwaited", _OUTWAITED, _WAITING),
)


@dataclass(frozen=True, slots=True)
class Target:
    """The images that are attacked, each with one of another class to begin at; and those that others send."""

    folder: Path
    images: Float32Array
    labels: list[int]
    starts: Float32Array
    others: Float32Array


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured, and at which false-positive rate of the detectors."""

    budget: Budget
    seed: int
    rate: float


def main(  # noqa: PLR0917 - options of a command line
    data: Annotated[Path | None, typer.Option(help="Folder with mnist.npz, for MNIST in place of digits.")] = None,
    out: Annotated[Path, typer.Option(help="Where queries-live-NAME.json and .md go.")] = Path("benchmarks/results"),
    work: Annotated[Path, typer.Option(help="Where models and profiles are.")] = WORK,
    images: Annotated[int, typer.Option(help="Images that each attack is run on.")] = 20,
    queries: Annotated[int, typer.Option(help="Queries that an attack has for each image.")] = 100,
    seed: Annotated[int, typer.Option(help="Of the attacks and of the sidecar's secret.")] = 0,
    rate: Annotated[float, typer.Option(help="False-positive rate of the detectors.")] = 0.01,
) -> None:
    """Attack a running service, undefended and defended, and write the table."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    configure_logging(json=False, level="error")
    name = Name.DIGITS if data is None else Name.MNIST
    file = out / f"queries-live-{name.value}"
    workshop = Workshop(name, work / name.value, images, 0, _console)
    workshop.fill(data or Path())
    workshop.calibrate("profile", Options(seed=0))
    held_out = SUBJECTS[name].splits(data or Path())[1]
    budget = Budget(*_BUDGETS[name], queries, _PATIENCE)
    found: dict[str, Any] = {
        "about": machine("benchmarks.queries.live"),
        "subject": SUBJECTS[name].title,
        "faster": FASTER,
        "smaller": SMALLER,
        "seed": seed,
        "rate": rate,
        "budget": asdict(budget),
        "rows": [],
    }
    for row in measure(workshop.folder, held_out, images, Size(budget, seed, rate)):
        found["rows"].append(row)
        live_table.write(found, file)
    _console.print(f"written to {file}.json and .md")


def measure(folder: Path, held_out: Split, images: int, size: Size) -> Iterator[dict[str, Any]]:
    """Every attack under every condition, on images that the server gets right. Each has a service of its own."""
    with LoopThread() as loop, ExitStack() as closed:
        scratch = Path(closed.enter_context(tempfile.TemporaryDirectory()))
        secret = scratch / "secret"
        secret.write_bytes(size.seed.to_bytes(32))
        server = closed.enter_context(model_server(loop, folder / "model.onnx"))
        direct = closed.enter_context(closing(DirectClient(server)))
        target = _target(folder, held_out, images, direct)
        for name, condition in itertools.product(ATTACKS, CONDITIONS):
            with ExitStack() as ended:
                clients: list[Client] = [direct, direct]
                if condition.defence != "none":
                    guard = sidecar(loop, server, folder, rate=size.rate, memory=condition.memory, secret=secret)
                    port = ended.enter_context(guard)
                    clients = [ended.enter_context(closing(HttpClient(port))) for _ in range(2)]
                row = _cell(name, condition, clients, target, size)
            _console.print(row, highlight=False)
            yield row


def _cell(name: str, condition: Condition, clients: list[Client], target: Target, size: Size) -> dict[str, Any]:
    others, gaps_s, fates = Others(clients[1], target.others), [], []
    for index, image in enumerate(target.images):
        session = Session(clients[0], condition.hiding, others, first=index * size.budget.queries)
        label, start, seed = target.labels[index], target.starts[index], size.seed + index
        fates.append(attack(name, session, image, label, start=start, budget=size.budget, seed=seed))
        gaps_s += session.gaps_s
    return {
        "attack": name,
        "defence": condition.defence,
        "condition": condition.name,
        **summary(fates),
        "median_gap_s": statistics.median(gaps_s),
        "shortest_gap_s": min(gaps_s),
        "others": others.asked,
        "others_rejected": others.rejected,
        "fates": [asdict(fate) for fate in fates],
    }


def _target(folder: Path, held_out: Split, images: int, direct: DirectClient) -> Target:
    """The first images that the model gets right, and for each the last of another class that it does."""
    guessed = np.array([int(direct.ask(image, "").argmax()) for image in held_out.images[: 8 * images]])
    right = np.flatnonzero(guessed == held_out.labels[: len(guessed)])
    attacked, rest = right[:images], list(right[images:][::-1])
    starts = []
    for index in attacked:
        other = next(each for each in rest if guessed[each] != guessed[index])
        rest.remove(other)
        starts.append(other)
    return Target(
        folder,
        held_out.images[attacked],
        [int(guessed[index]) for index in attacked],
        held_out.images[starts],
        held_out.images[8 * images :],
    )


if __name__ == "__main__":
    typer.run(main)
