"""Slots or objects: `python -m benchmarks.engine.walks --data FOLDER`.

The engine walks each trial of a batch along its integer boundaries, one after the other. Beside it, the same with all
trials of a batch as rows of arrays. Both give the same steps. What decides is how many trials a batch holds, which is
counted in a busy engine.
"""

from __future__ import annotations

import json
import timeit
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple
from unittest import mock

import numpy as np
import torch
import typer
from rich.console import Console

from benchmarks.engine.load import SPECS
from benchmarks.engine.subject import Subject, engine, load, screen
from benchmarks.engine.table import machine
from guard.screen.boundaries import BoolArray, Boundaries, Step, Stop, anytime, wald
from guard.screen.flight import Flight
from guard.values import IntArray

_KINDS = (wald(0.02, 0.2, 0.01, 0.05, 64), anytime(0.3085, 0.001, 64))
_TRIALS = (4, 8, 16, 32, 64, 128, 256)
_COPIES = 16
_KNOWN = 8
_RATES = (0.02, 0.3)
_CALLS, _TRIES = 50, 15
_REQUESTS = {"LeNet-5": 2000, "ResNet-20": 100}


class Slots(NamedTuple):
    """Live trials as arrays, (trials,): copies and label changes so far, row of the tables, first row in the batch."""

    n: IntArray
    changes: IntArray
    kind: IntArray
    start: IntArray


class Tables(NamedTuple):
    """Boundaries of all kinds, (kinds, changes), and caps, (kinds,)."""

    stable_from: IntArray
    sensitive_until: IntArray
    caps: IntArray


def tables(kinds: Sequence[Boundaries]) -> Tables:
    """Boundaries as arrays."""
    return Tables(
        np.array([kind.stable_from for kind in kinds]),
        np.array([kind.sensitive_until for kind in kinds]),
        np.array([kind.cap for kind in kinds]),
    )


def walk_all(slots: Slots, changed: BoolArray, copies: int, bounds: Tables) -> tuple[IntArray, IntArray, BoolArray]:
    """Move every trial over its `copies` rows: copies used so far, label changes among them, and who is at its end."""
    columns = np.arange(copies)
    kind = slots.kind[:, None]
    counts = slots.changes[:, None] + changed[slots.start[:, None] + columns].cumsum(axis=1)
    at = slots.n[:, None] + columns + 1
    known = np.minimum(counts, bounds.stable_from.shape[1] - 1)
    ends = (at >= bounds.stable_from[kind, known]) | (at <= bounds.sensitive_until[kind, known])
    ends |= at >= bounds.caps[kind]
    rows = np.arange(len(slots.n))
    first = ends.argmax(axis=1)
    ended = ends[rows, first]
    last = np.where(ended, first, copies - 1)
    return slots.n + last + 1, counts[rows, last], ended


def trials_in_batches(subject: Subject) -> list[int]:
    """How many trials each batch of a busy engine moves."""
    counted: list[int] = []
    with engine(subject, SPECS) as running:
        replica = running._replicas[0]  # noqa: SLF001 - what it lands is nobody else's business
        land = replica.land

        def landed(flight: Flight) -> None:
            counted.append(sum(len(share.stream.walks) for share in flight.shares))
            land(flight)

        with mock.patch.object(replica, "land", landed):
            screen(running, [subject.images[i % len(subject.images)] for i in range(_REQUESTS[subject.name])])
    return counted


def main(
    folder: Annotated[Path, typer.Option("--data", help="Folder with mnist.npz and cifar10-jpeg.zip.")],
    out: Annotated[Path, typer.Option(help="Where walks.json and walks.md go.")] = Path("benchmarks/results"),
    seed: Annotated[int, typer.Option(help="Of the label changes.")] = 0,
) -> None:
    """Measure both, by the number of trials in a batch."""
    rows = [_measure(trials, rate, seed) for rate in _RATES for trials in _TRIALS]
    torch.set_num_threads(1)
    held = {}
    for subject in load(folder, seed=seed):
        low, middle, high = np.quantile(trials_in_batches(subject), (0.1, 0.5, 0.9)).tolist()
        held[subject.name] = {"batch": subject.batch, "low": low, "median": middle, "high": high}
    found = {"about": machine("benchmarks.engine.walks"), "copies": _COPIES, "rows": rows, "trials": held}
    (out / "walks.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    text = _markdown(rows, held)
    (out / "walks.md").write_text(text, encoding="utf-8")
    Console().print(text)


def _measure(trials: int, rate: float, seed: int) -> dict[str, float]:
    bounds, rng = tables(_KINDS), np.random.default_rng(seed)
    kind = np.arange(trials) % len(_KINDS)
    start = np.arange(trials) // len(_KINDS) * _COPIES  # two trials share the copies of an item
    changed = rng.random(int(start.max()) + _COPIES) < rate
    slots = Slots(np.full(trials, _KNOWN), np.zeros(trials, np.int64), kind, start)
    parts = [changed[row : row + _COPIES] for row in start.tolist()]
    mine = [
        (_KINDS[row], Step(_KNOWN, 0, Stop.OPEN), part, not part.any()) for row, part in zip(kind, parts, strict=True)
    ]

    def each() -> list[Step]:
        return [boundaries.walk(step, part, none=none) for boundaries, step, part, none in mine]

    def together() -> tuple[IntArray, IntArray, BoolArray]:
        return walk_all(slots, changed, _COPIES, bounds)

    steps = [(step.n, step.changes, step.stop is not Stop.OPEN) for step in each()]
    if steps != list(zip(*(found.tolist() for found in together()), strict=True)):
        raise AssertionError("the two walks differ")
    return {"trials": trials, "rate": rate, "each_us": _microseconds(each), "together_us": _microseconds(together)}


def _microseconds(work: Callable[[], object]) -> float:
    return min(timeit.repeat(work, number=_CALLS, repeat=_TRIES)) / _CALLS * 1e6


def _markdown(rows: Sequence[dict[str, float]], held: Mapping[str, Mapping[str, float]]) -> str:
    lines = [
        "# Trials one after the other, or as rows of arrays",
        "",
        "What a batch of a busy engine holds, under sensitivity and a certificate of half sigma:",
        "",
        "| model | rows of a batch | trials in it: median | 10 % to 90 % of batches |",
        "| --- | --- | --- | --- |",
        *(
            f"| {name} | {each['batch']:.0f} | {each['median']:.0f} | {each['low']:.0f} to {each['high']:.0f} |"
            for name, each in held.items()
        ),
        "",
        f"Microseconds to move all trials of a batch over {_COPIES} copies each, by the share of copies that change",
        "their label:",
        "",
        "| trials in a batch | label changes | one after the other | as rows of arrays | ratio |",
        "| --- | --- | --- | --- | --- |",
        *(
            f"| {row['trials']} | {row['rate']:.0%} | {row['each_us']:.0f} us | {row['together_us']:.0f} us "
            f"| {row['each_us'] / row['together_us']:.2f} |"
            for row in rows
        ),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    typer.run(main)
