"""What a profile's detectors make of an input, with gradients: Guard as an attacker who has all of it would rebuild it.

The secret that seeds the noise is all that such an attacker lacks, so noise is drawn afresh at each look, and gradients
are those of its expectation (Athalye et al., 2018).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from guard.decide.combination import Combination
from guard.decide.surprise import Surprise
from guard.decide.threshold import p_value_threshold
from guard.errors import BackendError
from guard.offline.evaluate.rebuilt import Asked, Scorer, mutated, scorer
from guard.offline.view import View
from guard.profile import spec
from guard.profile.profile import Profile
from guard.values import Float64Array, IntArray

_KNOTS = 200
_OUTWARDS = 60
_FARTHEST = 1e3
_FLAT = 1e-9


@dataclass(frozen=True, slots=True)
class Look:
    """What is seen of n inputs: logits (n, classes), scores (n, detectors), and what the judge goes by, (n,)."""

    logits: Tensor
    scores: Tensor
    combined: Tensor


class Twin:
    """The detectors of a profile, over a torch module of its model.

    `ignored` says of detectors that it can't stand for why: an attacker who uses it does not see them.
    """

    def __init__(self, profile: Profile, model: nn.Module) -> None:
        self.view = View(profile.model)
        self.ignored: dict[str, str] = {}
        self.identity = _identity(profile)
        self._model = model = _Counted(model)
        self._scorers: dict[str, Scorer] = {}
        for each in profile.detectors:
            if isinstance(each, spec.SmoothingSpec):
                continue
            try:
                self._scorers[each.name] = scorer(each, profile, model)
            except BackendError as exc:
                self.ignored[each.name] = str(exc)
        self._tables = {name: _Table(profile, name) for name in self._scorers}
        self._mutations = [each.mutation for each in profile.detectors if isinstance(each, spec.SensitivitySpec)]
        combination = Combination(profile)
        self._combined, self._groups = combination.of_all(profile.calibration), profile.calibration.groups
        self._joint = None if profile.joint is None else _Joint(profile, profile.joint, combination, self.detectors)
        self._single = False

    def alone(self, detector: str) -> Twin:
        """Guard, had it this detector only, which then flags by its own p-value."""
        twin = copy(self)
        twin._scorers, twin._joint, twin._single = {detector: self._scorers[detector]}, None, True  # noqa: SLF001 - its own class
        return twin

    @property
    def asked(self) -> int:
        """Evaluations of the model so far."""
        return self._model.asked

    @property
    def detectors(self) -> tuple[str, ...]:
        """Those it stands for, in the order of the scores of a look."""
        return tuple(self._scorers)

    def limit(self, rate: float) -> float:
        """The most that an input's combined surprise may be without being flagged at a false-positive rate."""
        if self._single:
            return -math.log(rate)
        flagged = round(p_value_threshold(self._combined, self._groups, rate) * (len(self._combined) + 1))
        return float(np.sort(self._combined)[-max(1, flagged)])

    def logits(self, x: Tensor) -> Tensor:
        """Of inputs (n, *shape) in [0, 1]."""
        logits: Tensor = self._model(self.view.module_input(x))
        return logits

    def noisy(self, x: Tensor, rng: torch.Generator) -> Tensor:
        """The logits of a copy of each input (n, *shape) under the noise of the first detector that has any."""
        own = self.view.module_input(x)
        logits: Tensor = self._model(mutated(self._mutations[0], own, self.view, rng) if self._mutations else own)
        return logits

    def __call__(self, x: Tensor, *, copies: int, rng: torch.Generator, labels: Tensor | None = None) -> Look:
        """Look at inputs (n, *shape) in [0, 1], as if they had these labels; by default those that the model gives."""
        own = self.view.module_input(x)
        logits = self._model(own)
        labels = logits.detach().argmax(dim=1) if labels is None else labels
        asked = Asked(own, logits, labels, copies, rng)
        scores = torch.stack([score(asked) for score in self._scorers.values()], dim=1)
        return Look(logits, scores, self.combined(self.surprises(scores)))

    def combined(self, surprises: Tensor) -> Tensor:
        """Of surprises (n, detectors): what the judge goes by, (n,)."""
        if self._joint is not None:
            surprises = torch.cat([surprises, self._joint(surprises)[:, None]], dim=1)
        return surprises.logsumexp(dim=1)

    def surprises(self, scores: Tensor) -> Tensor:
        """Of scores (n, detectors), in nats."""
        return torch.stack([self._tables[name](scores[:, at]) for at, name in enumerate(self.detectors)], dim=1)


class _Counted(nn.Module):
    """A module, with a count of the rows that it was given."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.asked = 0
        self._module = module

    def forward(self, x: Tensor) -> Tensor:
        """As the module."""
        self.asked += len(x)
        answer: Tensor = self._module(x)
        return answer


class _Table:
    """A detector's surprise at a score, as a piecewise linear function; linear past its ends."""

    def __init__(self, profile: Profile, name: str) -> None:
        scores = profile.reference.scores[name]
        surprise = Surprise(scores, two_sided=name in profile.two_sided)
        knots = _knots(scores[np.isfinite(scores)])
        self._knots = torch.from_numpy(knots)
        self._values = torch.tensor([surprise(knot) for knot in knots.tolist()], dtype=torch.float64)

    def __call__(self, scores: Tensor) -> Tensor:
        return _between(self._knots, self._values, scores.double())


class _Joint:
    """What detectors say together, of surprises (n, detectors), in nats."""

    def __init__(self, profile: Profile, joint: spec.Joint, combination: Combination, names: Sequence[str]) -> None:
        weights = [joint.weights.get(name, (0.0, 0.0)) for name in names]
        self._linear, self._root = torch.tensor(weights, dtype=torch.float64).T
        knots = _knots(combination.together_of_all(profile.reference, joint))
        self._knots = torch.from_numpy(knots)
        surprises = [combination.joint_surprise(knot) for knot in knots.tolist()]
        self._values = torch.tensor(surprises, dtype=torch.float64)

    def __call__(self, surprises: Tensor) -> Tensor:
        # At 0 a square root has no slope.
        sums = surprises @ self._linear + surprises.clamp_min(_FLAT).sqrt() @ self._root
        return _between(self._knots, self._values, sums)


def _between(knots: Tensor, values: Tensor, at: Tensor) -> Tensor:
    """Linear between the knots (k,) and past the ends."""
    right = torch.searchsorted(knots, at.detach().contiguous()).clamp(1, len(knots) - 1)
    low, high = knots[right - 1], knots[right]
    below, above = values[right - 1], values[right]
    return below + (above - below) * (at - low) / (high - low)


def _knots(scores: Float64Array) -> Float64Array:
    """Close together where scores are, ever farther apart beyond."""
    if not len(scores):
        return np.array([0.0, 1.0])
    low, high = float(scores.min()), float(scores.max())
    span = max(high - low, _FLAT)
    outwards = span * np.geomspace(1 / _KNOTS, _FARTHEST, _OUTWARDS)
    inside = np.quantile(scores, np.linspace(0, 1, _KNOTS))
    return np.unique(np.concatenate([low - outwards, np.linspace(low, high, _KNOTS), inside, high + outwards]))


def _identity(profile: Profile) -> str:
    """What tells a profile's twin from another's."""
    digest = hashlib.sha256()
    parts: Mapping[str, tuple[IntArray, Mapping[str, Float64Array]]] = {
        "reference": (profile.reference.labels, profile.reference.scores),
        "calibration": (profile.calibration.labels, profile.calibration.scores),
    }
    for name, (labels, scores) in parts.items():
        digest.update(name.encode() + labels.tobytes())
        for detector, values in sorted(scores.items()):
            digest.update(detector.encode() + values.tobytes())
    for each in (*profile.detectors, *([] if profile.joint is None else [profile.joint])):
        digest.update(each.model_dump_json().encode())
    return digest.hexdigest()
