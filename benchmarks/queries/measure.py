"""What is measured: attacks under four conditions, and benign clients, before Guard's memory and Blacklight's."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from benchmarks.queries.attacks import Run
from benchmarks.queries.benign import STREAMS
from benchmarks.queries.watchers import Watcher
from guard.values import Float32Array

CONDITIONS: Final = ("plain", "paced", "rotated", "changed")
"""In a row; one in ten minutes, others between; each from another client; each slightly changed."""

_PACE_S = 600.0
_BETWEEN = 32
LOOK_AT_MOST: Final = 120
"""Queries by which a run without an earlier success has to be flagged."""


@dataclass(frozen=True, slots=True)
class Caught:
    """Attack runs before one watcher: how many succeeded, and of these and of all those flagged no later than that.

    `past` are successes that neither it nor the detectors flag, by the false-positive rate asked of these. Medians are
    numbers of queries.
    """

    runs: int
    succeeded: int
    caught: int
    flagged: int
    past: Mapping[float, int]
    median_success: float | None
    median_flag: float | None


@dataclass(frozen=True, slots=True)
class Flagged:
    """Benign clients, and those of them of whom any query was flagged."""

    clients: int
    flagged: int
    queries: int


def catch(
    runs: Sequence[Run],
    condition: str,
    make: Callable[[], Watcher],
    others: Float32Array,
    accused: Mapping[float, Sequence[bool]],
) -> Caught:
    """Show each run to a fresh watcher. The query that would succeed is stopped if it is the one that is flagged.

    `accused` says of each success in turn whether detectors flag it, by the rate asked.
    """
    flagged = [_first_flag(run, condition, make(), others) for run in runs]
    won = [run.success + 1 for run in runs if run.success is not None]
    found = [at + 1 for at in flagged if at is not None]
    of_winners = [at for at, run in zip(flagged, runs, strict=True) if run.success is not None]
    return Caught(
        len(runs),
        len(won),
        sum(at is not None and run.success is not None for at, run in zip(flagged, runs, strict=True)),
        len(found),
        {
            rate: sum(at is None and not known for at, known in zip(of_winners, each, strict=True))
            for rate, each in accused.items()
        },
        statistics.median(won) if won else None,
        statistics.median(found) if found else None,
    )


def _first_flag(run: Run, condition: str, watcher: Watcher, others: Float32Array) -> int | None:
    now_s, seen = 0.0, 0
    for index, query in enumerate(run.sent[:LOOK_AT_MOST]):
        if condition == "paced":
            now_s += _PACE_S
            for other in range(_BETWEEN):
                watcher.flags(others[seen % len(others)], f"other {other}", now_s)
                seen += 1
        client = f"attacker {index}" if condition == "rotated" else "attacker"
        if watcher.flags(query, client, now_s):
            return index
        if index == run.success:
            return None
    return None


def clients_flagged(streams: Iterable[Iterable[Float32Array]], watcher: Watcher, every_s: float = 1.0) -> Flagged:
    """Let all clients send in turns to one watcher."""
    waiting = {f"client {number}": iter(stream) for number, stream in enumerate(streams)}
    clients, flagged, queries = len(waiting), set(), 0
    while waiting:
        for name in list(waiting):
            image = next(waiting[name], None)
            if image is None:
                del waiting[name]
                continue
            queries += 1
            if watcher.flags(image, name, queries * every_s / clients):
                flagged.add(name)
    return Flagged(clients, len(flagged), queries)


def in_parts(images: Float32Array, each: int) -> list[Float32Array]:
    """Images of clients who send so many, none of them twice."""
    return [images[i : i + each] for i in range(0, len(images) - each + 1, each)]


def drifting(name: str, images: Float32Array, clients: int, each: int, seed: int) -> list[Iterable[Float32Array]]:
    """The streams of benign clients that repeat themselves in some way."""
    same, stream = STREAMS[name]
    rng = np.random.default_rng(seed)
    return [stream(images[:each] if same else images[i * each : (i + 1) * each], rng) for i in range(clients)]
