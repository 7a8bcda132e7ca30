"""The measurements of an evaluation: attacks and what becomes of them, laundered ones, honest drift, the worst case."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import structlog

from guard.offline.conditions import DRIFT, LAUNDERING, fitting
from guard.offline.evaluate.attack import Attack
from guard.offline.evaluate.craft import Crafted, Crafter
from guard.offline.evaluate.example import Example
from guard.offline.evaluate.results import AttackRow, Count, DriftCell, Laundered, Worst
from guard.offline.evaluate.screening import Screen, Screened
from guard.offline.evaluate.target import Answers
from guard.offline.progress import Reporter
from guard.offline.view import Bytes, from_bytes
from guard.values import Float64Array, IntArray

_LEVELS = (1 / 255, 2 / 255, 4 / 255, 8 / 255, 16 / 255, 0.1, 0.2, 0.3)
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Made:
    """What an attack made of the first images of a set. `won` is a mask over the whole set, of those misclassified."""

    attack: Attack
    crafted: Crafted
    won: Any
    attempts: int
    failed: str | None = None

    @property
    def images(self) -> Bytes:
        """Those that won."""
        won: Bytes = self.crafted.images[self.won[: len(self.crafted.images)]]
        return won


@dataclass(frozen=True, slots=True)
class Measured:
    """A row, an example of it if it ever won, and masks over the set: who won and was not flagged, at each rate."""

    row: AttackRow
    won: Any
    missed: Mapping[float, Any]
    example: Example | None


def craft_all(
    crafter: Crafter, attacks: Sequence[Attack], images: Bytes, labels: IntArray, reporter: Reporter
) -> list[Made]:
    """Run each attack on images that the model gets right. One that fails is a row without successes that says why."""
    made = []
    for attack in attacks:
        count = len(images) if attack.most is None else min(attack.most, len(images))
        failed, crafted = None, Crafted(images[:0], 0.0, 0)
        with reporter.stage(f"crafting {attack.title}", count) as advance:
            try:
                crafted = crafter.craft(attack, images[:count], labels[:count], advance)
            except Exception as exc:  # noqa: BLE001 - the toolbox raises whatever it likes on models it can't take
                failed = f"{type(exc).__name__}: {exc}"
                _log.warning("an attack failed and is left out", attack=attack.title, error=failed)
        won = np.zeros(len(images), bool)
        attempts = len(crafted.images)
        won[:attempts] = crafter.victim.answers.labels(crafted.images) != labels[:attempts]
        made.append(Made(attack, crafted, won, attempts, failed))
    return made


def measure(
    made: Made, images: Bytes, labels: IntArray, *, screen: Screen, answers: Answers, seed: int, reporter: Reporter
) -> Measured:
    """Screen what an attack made, as it is and laundered."""
    adversarial, truth = made.images, labels[made.won]
    conditions = fitting(LAUNDERING, image=answers.view.image)
    with reporter.stage(f"screening {made.attack.title}", len(adversarial) * (1 + len(conditions))) as advance:
        screened = screen(adversarial, advance)
        laundered = []
        for condition in conditions:
            washed = condition(adversarial, seed)
            still = answers.labels(washed) != truth
            found = screen(washed[still], advance)
            advance(int(np.count_nonzero(~still)))
            laundered.append(Laundered(condition.title, Count(int(still.sum()), len(still)), screen.count(found)))
    missed = {}
    for rate in screen.rates:
        mask = made.won.copy()
        mask[made.won] = ~screen.flagged(screened, rate)
        missed[rate] = mask
    row = _row(made, images[made.won], screened, screen, tuple(laundered))
    return Measured(
        row, made.won, missed, _example(made, images, labels, screened=screened, screen=screen, answers=answers)
    )


def drift(images: Bytes, labels: IntArray, *, screen: Screen, seed: int, reporter: Reporter) -> tuple[DriftCell, ...]:
    """Screen honest images under each condition."""
    conditions = fitting(DRIFT, image=screen.view.image)
    cells = []
    with reporter.stage("screening honest images under drift", len(conditions) * len(images)) as advance:
        for condition in conditions:
            found = screen(condition(images, seed), advance)
            right = Count(int(np.count_nonzero(found.labels == labels)), len(labels))
            expected = condition.within(screen.conditions)
            cells.append(DriftCell(condition.kind, condition.setting, expected, screen.count(found), right))
    return tuple(cells)


def worst_cases(measured: Sequence[Measured], attacked: int, rates: Sequence[float]) -> tuple[Worst, ...]:
    """Image by image, whether any attack won: of all attacks, of each access, and of L-inf strengths up to a level."""
    cases = [_worst("all attacks", measured, attacked, rates)]
    for access in dict.fromkeys(each.row.attack.access for each in measured):
        group = [each for each in measured if each.row.attack.access is access]
        cases.append(_worst(f"with {access}", group, attacked, rates))
    for level in _LEVELS:
        bounded = [each for each in measured if each.row.attack.linf is not None and each.row.attack.linf <= level]
        if any(each.row.attack.linf == level for each in bounded):
            name = next(each.row.attack.setting for each in bounded if each.row.attack.linf == level)
            name = name.removeprefix("PGD ").partition(",")[0]
            cases.append(_worst(f"{name} or less", bounded, attacked, rates, level))
    return tuple(cases)


def _worst(
    name: str, group: Sequence[Measured], attacked: int, rates: Sequence[float], linf: float | None = None
) -> Worst:
    none = np.zeros(attacked, bool)

    def any_of(masks: Sequence[Any]) -> Count:
        return Count(int(np.count_nonzero(np.logical_or.reduce([none, *masks]))), attacked)

    guarded = {rate: any_of([each.missed[rate] for each in group]) for rate in rates}
    return Worst(name, any_of([each.won for each in group]), guarded, linf)


def _row(made: Made, clean: Bytes, screened: Screened, screen: Screen, laundered: tuple[Laundered, ...]) -> AttackRow:
    change = (from_bytes(made.images) - from_bytes(clean)).reshape(len(clean), math.prod(clean.shape[1:]))
    some = bool(len(clean))
    return AttackRow(
        attack=made.attack,
        succeeded=Count(len(clean), made.attempts),
        caught=screen.count(screened),
        laundered=laundered,
        accusers=_accusers(screened, screen),
        unscreened=int(np.count_nonzero(screened.judged == 0)),
        evaluations=float(screened.evaluations.mean()) if some else None,
        l2=float(np.median(np.linalg.norm(change, axis=1))) if some else None,
        linf=float(np.median(np.abs(change).max(axis=1))) if some else None,
        answers=made.crafted.answers / max(made.attempts, 1),
        elapsed_s=made.crafted.elapsed_s,
        failed=made.failed,
    )


def _accusers(screened: Screened, screen: Screen) -> dict[str, int]:
    """Of those caught at the highest rate: how often each detector found them least ordinary."""
    caught = screened.by_detector[screen.flagged(screened, screen.rates[0])]
    counts = Counter(screen.detectors[index] for index in _least(caught))
    return {name: counts[name] for name in screen.detectors}


def _least(by_detector: Float64Array) -> list[int]:
    return [int(index) for index in np.where(np.isnan(by_detector), np.inf, by_detector).argmin(axis=1)]


def _example(
    made: Made, images: Bytes, labels: IntArray, *, screened: Screened, screen: Screen, answers: Answers
) -> Example | None:
    """The first that was missed, or else the first that was caught."""
    if not len(screened):
        return None
    flagged = screen.flagged(screened, screen.rates[0])
    chosen = int(np.argmin(flagged))
    row = int(np.flatnonzero(made.won)[chosen])
    adversarial = made.images[chosen]
    return Example(
        attack=made.attack.title,
        clean=images[row],
        made=adversarial,
        was=int(labels[row]),
        became=int(answers.labels(adversarial[None])[0]),
        flagged=bool(flagged[chosen]),
        p_value=float(screened.p_values[chosen]),
        accuser=screen.detectors[_least(screened.by_detector[chosen : chosen + 1])[0]],
        heat=screen.heat(adversarial),
    )
