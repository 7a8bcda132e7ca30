"""Attackers who know Guard: what they make of images, kept on disk, and what becomes of it."""

from __future__ import annotations

import importlib.metadata
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from guard.offline.evaluate.craft import Victim
from guard.offline.evaluate.directions import Effort, Task
from guard.offline.evaluate.kept import Arrays, Kept, key_of
from guard.offline.evaluate.pursuits import Pursuit, runner
from guard.offline.evaluate.results import Count, Knowing, KnowingRow, Worst
from guard.offline.evaluate.screening import Screen
from guard.offline.evaluate.twin import Twin
from guard.offline.progress import Reporter
from guard.offline.view import Bytes, from_bytes, to_bytes
from guard.values import IntArray

FORMAT: Final = 2
"""Of what is kept: raised where these attacks change in a way that their settings don't show."""

_SLACK = 0.3
"""By how much, in nats, attackers want to stay below the limit: the noise that they meet is not the noise that they
had."""
_ADDED = ("against", "note")  # a row without them is what it was before there were any, and stays kept
_POOL, _POOL_COPIES = 200, 8
_PORTION, _PORTION_VALUES = 10, 100_000


@dataclass(frozen=True, slots=True)
class _Made:
    """8-bit images, and what they took: gradient steps and evaluations of the model, of all together, and seconds."""

    images: Bytes
    steps: int
    evaluations: int
    elapsed_s: float


@dataclass(frozen=True, slots=True)
class _Outcome:
    """A row, and masks of the images that it fooled the model with, and won with at each rate."""

    row: KnowingRow
    fooled: Any
    won: Mapping[float, Any]


@dataclass(frozen=True)
class Knower:
    """Somebody with the model, the profile and honest images, and without the secret that seeds a server's noise.

    They aim to pass at the highest rate, and at lower ones they pass all the more.
    """

    twin: Twin
    victim: Victim
    screen: Screen
    kept: Kept
    seed: int
    reporter: Reporter

    def attack(
        self, rows: Sequence[Pursuit], images: Bytes, labels: IntArray, *, honest: tuple[Bytes, IntArray]
    ) -> Knowing:
        """Attack images that the model gets right; `honest` ones, with their labels, show what is ordinary."""
        ordinary = self._ordinary(honest[0][:_POOL], honest[1][:_POOL])
        outcomes = []
        for pursuit in rows:
            with self.reporter.stage(f"crafting {pursuit.title}{_whose(pursuit)}", len(images)) as advance:
                made = self._craft(pursuit, images, labels, ordinary, advance)
            with self.reporter.stage(f"screening {pursuit.title}{_whose(pursuit)}", len(images)) as advance:
                outcomes.append(self._measure(pursuit, made, images, labels, advance))
        plain = {each.row.linf: each.row.fooled for each in outcomes if not each.row.knows}
        measured = tuple(replace(each.row, undefended=plain.get(each.row.linf)) for each in outcomes)
        whole = [each for each in outcomes if each.row.against is None]
        return Knowing(measured, _worst(whole, self.screen.rates), dict(self.twin.ignored))

    def _craft(
        self, pursuit: Pursuit, images: Bytes, labels: IntArray, ordinary: Tensor, advance: Callable[[int], None]
    ) -> _Made:
        size, portions = _portion_of(images), []
        for start in range(0, len(images), size):
            part, truth = images[start : start + size], labels[start : start + size]
            key = key_of(self._facts(pursuit), part, truth, ordinary.numpy())
            arrays = self.kept.get(key)
            if arrays is None:
                arrays = self._portion(pursuit, part, truth, ordinary, int(key[:8], 16))
                self.kept.put(key, arrays)
            portions.append(arrays)
            advance(len(part))
        return _Made(
            np.concatenate([portion["images"] for portion in portions]),
            sum(int(portion["steps"]) for portion in portions),
            sum(int(portion["evaluations"]) for portion in portions),
            sum(float(portion["elapsed_s"]) for portion in portions),
        )

    def _portion(self, pursuit: Pursuit, images: Bytes, labels: IntArray, ordinary: Tensor, seed: int) -> Arrays:
        asked, started = self.twin.asked, time.perf_counter()
        twin = self._faced(pursuit)
        effort = Effort(pursuit.steps, pursuit.rounds, pursuit.copies, self._goal(twin))
        x, truth = torch.from_numpy(from_bytes(images)), torch.from_numpy(labels)
        task = Task(twin, x, truth, ordinary, effort, torch.Generator().manual_seed(seed))
        best = runner(pursuit)(task)
        return {
            "images": to_bytes(best.images.numpy()),
            "steps": np.array(best.steps),
            "evaluations": np.array(self.twin.asked - asked),
            "elapsed_s": np.array(time.perf_counter() - started),
        }

    def _measure(
        self, pursuit: Pursuit, made: _Made, images: Bytes, labels: IntArray, advance: Callable[[int], None]
    ) -> _Outcome:
        fooled = self.victim.answers.labels(made.images) != labels
        found = self.screen(made.images, advance)
        won = {rate: fooled & ~self.screen.flagged(found, rate) for rate in self.screen.rates}
        passed = fooled[:, None] & ~(found.by_detector <= self.screen.rates[0])
        change = (from_bytes(made.images) - from_bytes(images)).reshape(len(images), -1)[fooled]
        some = bool(len(change))
        row = KnowingRow(
            attack=pursuit.attack,
            setting=pursuit.setting,
            linf=pursuit.linf,
            knows=pursuit.knows,
            against=pursuit.against,
            undefended=None,
            fooled=_count(fooled),
            won={rate: _count(mask) for rate, mask in won.items()},
            alone={name: _count(passed[:, place]) for place, name in enumerate(self.screen.detectors)},
            steps=made.steps / len(images),
            evaluations=made.evaluations / len(images),
            l2=float(np.median(np.linalg.norm(change, axis=1))) if some else None,
            largest=float(np.median(np.abs(change).max(axis=1))) if some else None,
            elapsed_s=made.elapsed_s,
        )
        return _Outcome(row, fooled, won)

    def _ordinary(self, images: Bytes, labels: IntArray) -> Tensor:
        """Logits (classes, classes) of that image of each class which surprises least.

        A class without an image has those of another, with the two classes' logits exchanged.
        """
        rng, x = torch.Generator().manual_seed(self.seed), torch.from_numpy(from_bytes(images))
        with torch.no_grad():
            looks = [self.twin(part, copies=_POOL_COPIES, rng=rng) for part in torch.split(x, _portion_of(images))]
        logits, combined = torch.cat([look.logits for look in looks]), torch.cat([look.combined for look in looks])
        least = int(combined.argmin())
        made = logits[least].repeat(logits.shape[1], 1)
        for label, row in enumerate(made):
            own = np.flatnonzero(labels == label)
            if len(own):
                row[:] = logits[own[int(combined[own].argmin())]]
            else:
                pair = [label, int(labels[least])]
                row[pair] = row[pair[::-1]]
        return made

    def _faced(self, pursuit: Pursuit) -> Twin:
        return self.twin if pursuit.against is None else self.twin.alone(pursuit.against)

    def _goal(self, twin: Twin) -> float:
        return twin.limit(self.screen.rates[0]) - _SLACK

    def _facts(self, pursuit: Pursuit) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "pursuit": {name: value for name, value in asdict(pursuit).items() if value or name not in _ADDED},
            "model": self.victim.fingerprint,
            "exact": self.victim.exact,
            "profile": self.twin.identity,
            "detectors": self.twin.detectors,
            "goal": self._goal(self._faced(pursuit)),
            "seed": self.seed,
            "torch": importlib.metadata.version("torch"),
        }


def _worst(outcomes: Sequence[_Outcome], rates: Sequence[float]) -> tuple[Worst, ...]:
    """Image by image, whether any of them won: up to each strength, and of all."""

    def worst(name: str, chosen: Sequence[_Outcome], level: float | None) -> Worst:
        guarded = {rate: _count(np.logical_or.reduce([each.won[rate] for each in chosen])) for rate in rates}
        return Worst(name, _count(np.logical_or.reduce([each.fooled for each in chosen])), guarded, level)

    settings = {each.row.linf: each.row.setting for each in outcomes}
    cases = [
        worst(f"{setting} or less", [each for each in outcomes if (each.row.linf or math.inf) <= level], level)
        for level, setting in settings.items()
        if level is not None
    ]
    return (*cases, worst("of any size", outcomes, None))


def _whose(pursuit: Pursuit) -> str:
    if pursuit.against is not None:
        return f", against {pursuit.against} alone"
    return ", knowing Guard" if pursuit.knows else ", to compare with"


def _portion_of(images: Bytes) -> int:
    """How many to attack at once: each is looked at in many copies."""
    return max(1, min(_PORTION, _PORTION_VALUES // max(1, math.prod(images.shape[1:]))))


def _count(mask: Any) -> Count:
    return Count(int(np.count_nonzero(mask)), len(mask))
