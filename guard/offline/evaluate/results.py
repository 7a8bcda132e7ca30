"""What an evaluation found, as frozen values that travel as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from guard import stats
from guard.offline.evaluate.attack import Attack
from guard.offline.evaluate.example import Example


@dataclass(frozen=True, slots=True)
class Count:
    """So many of so many."""

    count: int
    of: int

    @property
    def share(self) -> float | None:
        """As a share; None of nothing."""
        return self.count / self.of if self.of else None

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the share (Clopper and Pearson, 1934)."""
        return stats.clopper_pearson_interval(self.count, self.of)

    def as_json(self) -> dict[str, Any]:
        """With share and interval."""
        return {"count": self.count, "of": self.of, "share": self.share, "interval_95": list(self.interval)}


ByRate: TypeAlias = Mapping[float, Count]
"""Flagged inputs, by the false-positive rate that was asked for."""


@dataclass(frozen=True, slots=True)
class Laundered:
    """An attack's images after one condition: those `still` misclassified, and how many of them are caught."""

    condition: str
    still: Count
    caught: ByRate


@dataclass(frozen=True, slots=True)
class AttackRow:
    """One attack at one setting. Success is an 8-bit image that the model gets wrong; what is caught is of those.

    `accusers` counts, of those caught at the highest rate, which detector's own p-value was least. `l2` and `linf` are
    medians over successes, as shares of the input's range; `answers` are the model's, an image.
    """

    attack: Attack
    succeeded: Count
    caught: ByRate
    laundered: tuple[Laundered, ...] = ()
    accusers: Mapping[str, int] = field(default_factory=dict)
    unscreened: int = 0
    evaluations: float | None = None
    l2: float | None = None
    linf: float | None = None
    answers: float = 0.0
    elapsed_s: float = 0.0
    failed: str | None = None


@dataclass(frozen=True, slots=True)
class DriftCell:
    """Honest images under one condition: how many are flagged, and of how many the label stays right.

    `expected`: it is within what the profile declares.
    """

    kind: str
    setting: str
    expected: bool
    flagged: ByRate
    right: Count


@dataclass(frozen=True, slots=True)
class Worst:
    """Images for which at least one of these attacks won: misclassified, and misclassified and not flagged."""

    attacks: str
    undefended: Count
    guarded: ByRate
    linf: float | None = None


@dataclass(frozen=True, slots=True)
class KnowingRow:
    """One attack that knows Guard (`knows`), at one setting: the images that it `fooled` the model with.

    `won` were besides not flagged, by rate; `alone` are those that a single detector would have let pass at the highest
    rate; `against` is the one that was attacked as if there were no other. `undefended` is what one who does not know
    Guard fools the model with at this strength. `steps` and `evaluations` are the attacker's, an image; `l2` and
    `largest` are medians, as shares of the input's range.
    """

    attack: str
    setting: str
    linf: float | None
    knows: bool
    against: str | None
    undefended: Count | None
    fooled: Count
    won: Mapping[float, Count]
    alone: Mapping[str, Count]
    steps: float
    evaluations: float
    l2: float | None
    largest: float | None
    elapsed_s: float

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        return {
            "attack": self.attack,
            "setting": self.setting,
            "linf": self.linf,
            "knows": self.knows,
            "against": self.against,
            "undefended": None if self.undefended is None else self.undefended.as_json(),
            "fooled": self.fooled.as_json(),
            "won": _by_rate(self.won),
            "alone": {name: count.as_json() for name, count in self.alone.items()},
            "steps_an_image": self.steps,
            "evaluations_an_image": self.evaluations,
            "median_l2": self.l2,
            "median_linf": self.largest,
            "elapsed_s": self.elapsed_s,
        }


@dataclass(frozen=True, slots=True)
class Knowing:
    """What attackers win who know Guard. `ignored` are detectors that they had not rebuilt, and why."""

    rows: tuple[KnowingRow, ...]
    worst: tuple[Worst, ...]
    ignored: Mapping[str, str]

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        return {
            "rows": [row.as_json() for row in self.rows],
            "worst_case": [_worst(worst) for worst in self.worst],
            "ignored_detectors": dict(self.ignored),
        }


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Everything. `facts` says what was evaluated, with what and how, in the order in which a person reads it."""

    facts: Mapping[str, str]
    labelled: bool
    exact: bool
    agreement: float
    accuracy: Count
    rates: tuple[float, ...]
    benign: ByRate
    benign_evaluations: float
    unscreened: int
    detectors: tuple[str, ...]
    attacks: tuple[AttackRow, ...]
    drift: tuple[DriftCell, ...]
    worst: tuple[Worst, ...]
    examples: tuple[Example, ...]
    knowing: Knowing | None = None

    def as_json(self) -> dict[str, Any]:
        """For machines; without the example images."""
        return {
            "facts": dict(self.facts),
            "labelled": self.labelled,
            "white_box": {"exact": self.exact, "agreement": self.agreement},
            "accuracy": self.accuracy.as_json(),
            "rates": list(self.rates),
            "false_positives": _by_rate(self.benign),
            "benign_evaluations": self.benign_evaluations,
            "benign_unscreened": self.unscreened,
            "detectors": list(self.detectors),
            "attacks": [_attack(row) for row in self.attacks],
            "drift": [
                {
                    "kind": cell.kind,
                    "setting": cell.setting,
                    "expected": cell.expected,
                    "flagged": _by_rate(cell.flagged),
                    "right": cell.right.as_json(),
                }
                for cell in self.drift
            ],
            "worst_case": [_worst(worst) for worst in self.worst],
            "knowing": None if self.knowing is None else self.knowing.as_json(),
        }


def _attack(row: AttackRow) -> dict[str, Any]:
    attack = row.attack
    return {
        "attack": attack.name,
        "setting": attack.setting,
        "linf": attack.linf,
        "access": str(attack.access),
        "method": attack.method,
        "parameters": dict(attack.parameters) or [dict(part.parameters) for part in attack.parts],
        "succeeded": row.succeeded.as_json(),
        "caught": _by_rate(row.caught),
        "laundered": [
            {"condition": each.condition, "still": each.still.as_json(), "caught": _by_rate(each.caught)}
            for each in row.laundered
        ],
        "accusers": dict(row.accusers),
        "unscreened": row.unscreened,
        "mean_evaluations": row.evaluations,
        "median_l2": row.l2,
        "median_linf": row.linf,
        "answers_an_image": row.answers,
        "elapsed_s": row.elapsed_s,
        "failed": row.failed,
    }


def _worst(worst: Worst) -> dict[str, Any]:
    return {
        "attacks": worst.attacks,
        "linf": worst.linf,
        "undefended": worst.undefended.as_json(),
        "guarded": _by_rate(worst.guarded),
    }


def _by_rate(counts: ByRate) -> dict[str, Any]:
    return {f"{rate:g}": count.as_json() for rate, count in counts.items()}
