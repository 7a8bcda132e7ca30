"""Sets of inputs through the engine and the judge of a profile, as requests would go."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import guard
from guard.decide.judge import Judge
from guard.errors import ConfigError, RateUnsupported
from guard.model.backend import Backend
from guard.offline.evaluate.example import Heat, heat_of
from guard.offline.evaluate.kept import Arrays, Kept, key_of
from guard.offline.evaluate.results import ByRate, Count
from guard.offline.scoring import Screens
from guard.offline.spread import screening
from guard.offline.view import Bytes, View
from guard.profile.profile import Profile
from guard.profile.spec import OcclusionSpec
from guard.values import Evidence, Float64Array, IntArray, Screening, Verdict

_QUEUE = 64
_PORTION = 256


@dataclass(frozen=True, slots=True)
class Screened:
    """What was found about a set of n inputs.

    `p_values` are those of all detectors together, `by_detector` (n, detectors) those of each, NaN where there is none;
    `judged` is 0 where no verdict was reached.
    """

    labels: IntArray
    p_values: Float64Array
    by_detector: Float64Array
    evaluations: IntArray
    judged: IntArray

    def __len__(self) -> int:
        return len(self.labels)


class Screen:
    """An engine with a profile's detectors, and its judges. What was screened before is not screened again.

    The certificate is left out: it is no suspicion. All detectors look at every input, for how each of them does is
    part of the report; a server spares some of them inputs that are flagged already.
    """

    def __init__(self, screens: Screens, profile: Profile, rates: Sequence[float], *, kept: Kept, seed: int) -> None:
        self.detectors = profile.scoring
        self.rates, self.conditions = tuple(rates), profile.conditions
        self.view = View(profile.model)
        self._judges = {rate: Judge(profile, false_positive_rate=rate) for rate in rates}
        self._screens, self._kept = screens, kept
        self._occlusion = any(isinstance(each, OcclusionSpec) for each in profile.detectors)
        self._identity = _identity(profile) | {"seed": seed}

    def __call__(self, images: Bytes, advance: Callable[[int], None] = lambda _: None) -> Screened:
        """Screen 8-bit images, (n, *shape) as attackers see them."""
        portions = [
            self._portion(images[start : start + _PORTION], advance) for start in range(0, len(images), _PORTION)
        ]
        portions = portions or [_as_arrays([], self.detectors)]
        names = ("labels", "p_values", "by_detector", "evaluations", "judged")
        return Screened(*(np.concatenate([portion[name] for portion in portions]) for name in names))

    def heat(self, image: Bytes) -> Heat | None:
        """What covering parts of an 8-bit image (*shape) shows; None where no detector does that, or it can't tell.

        What is kept of screenings does not hold it, so that this one is screened again.
        """
        if not self._occlusion:
            return None
        (screening,) = self._screens(self.view.own(image[None]))
        evidence = (each for each in screening.findings if isinstance(each, Evidence))
        seen = next((each.occlusion for each in evidence if each.occlusion is not None), None)
        return None if seen is None else heat_of(seen)

    def flagged(self, screened: Screened, rate: float) -> Any:
        """Which of them are flagged at a rate, as a mask."""
        return screened.p_values <= self._judges[rate].threshold

    def count(self, screened: Screened, chosen: Any = None) -> ByRate:
        """How many of them, or of those chosen by a mask, are flagged at each rate."""
        chosen = np.ones(len(screened), bool) if chosen is None else chosen
        of = int(np.count_nonzero(chosen))
        return {rate: Count(int(np.count_nonzero(self.flagged(screened, rate) & chosen)), of) for rate in self.rates}

    def _portion(self, images: Bytes, advance: Callable[[int], None]) -> Arrays:
        key = key_of(self._identity, images)
        arrays = self._kept.get(key)
        if arrays is None:
            judge = self._judges[self.rates[0]]
            found = []
            for screening in self._screens(self.view.own(images)):
                found.append((screening, judge.judge(screening)))
                advance(1)
            arrays = _as_arrays(found, self.detectors)
            self._kept.put(key, arrays)
        else:
            advance(len(images))
        return arrays


def _as_arrays(found: Sequence[tuple[Screening, Any]], detectors: Sequence[str]) -> Arrays:
    p_values = [np.nan if decision.p_value is None else decision.p_value for _, decision in found]
    each = np.full((len(found), len(detectors)), np.nan)
    for row, (_, decision) in enumerate(found):
        for finding in decision.findings:
            if isinstance(finding, Evidence) and finding.p_value is not None:
                each[row, detectors.index(finding.detector)] = finding.p_value
    return {
        "labels": np.array([-1 if s.label is None else s.label for s, _ in found], np.int64),
        "p_values": np.array(p_values, np.float64),
        "by_detector": each,
        "evaluations": np.array([sum(s.spent.values()) for s, _ in found], np.int64),
        "judged": np.array([decision.verdict is not Verdict.UNSCREENED for _, decision in found], np.int64),
    }


def supported(profile: Profile, rates: Sequence[float], default: Sequence[float]) -> tuple[float, ...]:
    """The rates asked for, highest first; where none were, those by default that the profile supports.

    Raises:
        ConfigError: a rate that is none.
        RateUnsupported: the profile holds too few samples for a rate that was asked for, or for any.
    """
    for rate in rates:
        if not 0 < rate < 1:
            raise ConfigError(f"--rate {rate:g}: give a share between 0 and 1, for example 0.05")
    complaint: RateUnsupported | None = None
    found = []
    for rate in sorted(set(rates or default), reverse=True):
        try:
            Judge(profile, false_positive_rate=rate)
        except RateUnsupported as exc:
            if rates:
                raise
            complaint = complaint or exc
        else:
            found.append(rate)
    if complaint is not None and not found:
        raise complaint
    return tuple(found)


@contextmanager
def screen(
    profile: Profile, replica: Backend, rates: Sequence[float], kept: Kept, seed: int, *, ray: str | None = None
) -> Iterator[Screen]:
    """A running engine over a replica, which stays the caller's, or those of a Ray cluster; stopped at the end."""
    # No secret: a report repeats with its seed.
    secret = f"evaluation {seed}".encode()
    with screening(replica, profile.detectors, profile.files, secret=secret, ray=ray) as screens:
        yield Screen(screens, profile, rates, kept=kept, seed=seed)


def _identity(profile: Profile) -> dict[str, Any]:
    """What tells a profile's verdicts from another's."""
    digest = hashlib.sha256()
    for part in (profile.reference, profile.calibration):
        digest.update(part.labels.tobytes())
        for name, scores in sorted(part.scores.items()):
            digest.update(name.encode() + scores.tobytes())
    return {
        "model": asdict(profile.model),
        "detectors": [each.model_dump(mode="json") for each in profile.detectors],
        "replica": None if profile.replica is None else profile.replica.sha256,
        "scores": digest.hexdigest(),
        "joint": None if profile.joint is None else profile.joint.model_dump(mode="json"),
        "code": _code(),
    }


@cache
def _code() -> str:
    """Of what finds and judges: while it is being worked on, its version says nothing."""
    digest = hashlib.sha256()
    for room in ("screen", "decide", "model", "profile"):
        for file in sorted((Path(guard.__file__).parent / room).glob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()
