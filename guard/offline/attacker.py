"""Calibration as an attacker: what detector networks learn from, and how detectors count together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from guard.model.backend import Backend
from guard.offline.material import Material, collect
from guard.offline.progress import Reporter
from guard.offline.scoring import score
from guard.offline.whitebox import WhiteBox
from guard.profile.profile import BenignScores
from guard.profile.spec import Condition, DetectorSpec
from guard.screen.engine import Engine
from guard.values import Float32Array

_ATTACKED, _ATTACKED_MORE = 300, 60
"""Samples that each family and strength attacks."""


@dataclass(frozen=True, slots=True)
class Attacker:
    """Somebody with gradients of a model, or of a surrogate. Families that are `left_out` are not tried."""

    box: WhiteBox
    backend: Backend
    conditions: Sequence[Condition]
    reporter: Reporter
    left_out: Sequence[str] = ()

    def attack(self, samples: Float32Array, *, seed: int, attacked: int = _ATTACKED) -> Material:
        """Attack clean samples, (n, *shape)."""
        return collect(
            self.box.module,
            self.backend,
            samples,
            self.conditions,
            exact=self.box.exact,
            seed=seed,
            reporter=self.reporter,
            left_out=self.left_out,
            attacked=attacked,
        )

    def score_more(
        self, engine: Engine, samples: Float32Array, detectors: Sequence[DetectorSpec], *, seed: int
    ) -> dict[str, list[BenignScores]]:
        """Attack other samples, and score each set of what fooled the model, by family.

        A surrogate's attacks say too little about the model's own.
        """
        if not self.box.exact:
            return {}
        attacks = self.attack(samples, seed=seed, attacked=_ATTACKED_MORE).attacks
        sets = [each for family in attacks.values() for each in family]
        if not sets:
            return {}
        together = score(engine, np.concatenate(sets), detectors, self.reporter, "attacks")
        scored = iter(_split(together, [len(each) for each in sets]))
        return {name: [next(scored) for _ in family] for name, family in attacks.items()}


def _split(scored: BenignScores, sizes: Sequence[int]) -> list[BenignScores]:
    ends = np.cumsum(sizes).tolist()
    parts = [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]
    return [BenignScores(scored.labels[at], {name: each[at] for name, each in scored.scores.items()}) for at in parts]
