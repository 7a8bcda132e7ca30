"""The rows of attackers who know Guard, and of the one who does not, to compare them with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from guard.offline.evaluate import evasion
from guard.offline.evaluate.directions import ADAPTIVE, METHODS, Task
from guard.offline.evaluate.evasion import Best
from guard.offline.view import View

NAME: Final = "Knowing"
"""What `--attacks` calls all of them."""
OBLIVIOUS: Final = "PGD"
SMALLEST: Final = "Adaptive C&W"
_MOST, _MOST_QUICKLY = 50, 20
_GREY, _COLOUR = (0.1, 0.3), (8 / 255,)
_LONGER, _MANY_COPIES = 150, 20
_LEVELS = 255
_COARSE = 0.1


@dataclass(frozen=True, slots=True)
class Pursuit:
    """A row: an attack and its strength in L-inf; without one it looks for the smallest change in L2.

    `against` is the detector that it attacks as if there were no other; without one it attacks the whole of Guard.
    `note` tells it from another of its name and strength.
    """

    attack: str
    linf: float | None
    steps: int
    rounds: int = 1
    copies: int = 4
    against: str | None = None
    note: str = ""

    @property
    def setting(self) -> str:
        """Its strength, for people."""
        if self.linf is None:
            return "L2, the smallest"
        level = f"{round(self.linf * _LEVELS)}/{_LEVELS}" if self.linf < _COARSE else f"{self.linf:g}"
        return f"L-inf {level}{self.note}"

    @property
    def title(self) -> str:
        """What tables call it."""
        return f"{self.attack}, {self.setting}"

    @property
    def knows(self) -> bool:
        """Whether it knows of Guard: the one that does not is there to compare with."""
        return self.attack != OBLIVIOUS


def pursuits(view: View, detectors: Sequence[str], *, quick: bool) -> tuple[Pursuit, ...]:
    """The rows for a model's inputs. Those without colour are changed by a lot more before people mind.

    At the greatest strength one takes longer and looks at more copies, and each of the detectors is attacked alone.
    """
    levels = _GREY if not view.image or view.shape[0] == 1 else _COLOUR
    if quick:
        return tuple(Pursuit(name, levels[-1], 30) for name in (OBLIVIOUS, ADAPTIVE))
    made = []
    for level in levels:
        made += [Pursuit(OBLIVIOUS, level, 50), *(Pursuit(name, level, 50, rounds=3) for name in METHODS)]
    longer = Pursuit(ADAPTIVE, levels[-1], _LONGER, 3, _MANY_COPIES, note=f", {_LONGER} steps, {_MANY_COPIES} copies")
    alone = (Pursuit(ADAPTIVE, levels[-1], 50, rounds=3, against=name) for name in detectors)
    return (*made, longer, Pursuit(SMALLEST, None, 80, rounds=4), *alone)


def most(images: int | None, *, quick: bool) -> int:
    """How many images are attacked: these attacks are slow, so that more than some are not, whoever asks."""
    limit = _MOST_QUICKLY if quick else _MOST
    return limit if images is None else min(images, limit)


def runner(pursuit: Pursuit) -> Callable[[Task], Best]:
    """What makes a row's images."""
    if pursuit.linf is None:
        return evasion.carlini
    if not pursuit.knows:
        return partial(evasion.oblivious, eps=pursuit.linf)
    return partial(evasion.bounded, eps=pursuit.linf, method=METHODS[pursuit.attack])
