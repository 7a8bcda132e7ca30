"""What Guard counted, at moments of the last minutes: rates, and how p-values lie."""

from __future__ import annotations

import math
import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from threading import Lock
from typing import Final

from prometheus_client import CollectorRegistry

from guard.observe.families import DECISIONS
from guard.values import Verdict

LOOK_S: Final = 2.0
"""How often is looked: a look takes a millisecond at most."""

WINDOW_S: Final = 300.0
"""How far back charts go."""

_REQUESTS, _ITEMS = "guard_requests_total", "guard_items_total"
_EVALUATIONS, _P_VALUES = "guard_model_evaluations_total", "guard_detector_pvalue_ratio_bucket"

Busy = Callable[[], Mapping[str, float]]
"""For how many seconds each model's engine was busy so far."""


@dataclass(frozen=True, slots=True)
class Totals:
    """What was counted up to a moment. `p_values` are by model and detector, and in each bucket, not up to it."""

    at_s: float
    requests: Mapping[str, float]
    items: Mapping[tuple[str, str], float]
    evaluations: Mapping[str, float]
    p_values: Mapping[tuple[str, str], tuple[float, ...]]
    busy_s: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Stretch:
    """What happened between two moments. Counters that began anew meanwhile count from 0."""

    before: Totals
    after: Totals

    @property
    def seconds(self) -> float:
        """How long it is."""
        return max(self.after.at_s - self.before.at_s, 1e-9)

    def requests(self, decision: str) -> float:
        """Requests with which that was done."""
        return _grown(self.before.requests.get(decision, 0.0), self.after.requests.get(decision, 0.0))

    def items(self, model: str, verdict: str) -> float:
        """Items of a model with that verdict."""
        key = model, verdict
        return _grown(self.before.items.get(key, 0.0), self.after.items.get(key, 0.0))

    def evaluations(self, model: str) -> float:
        """Evaluations of a model."""
        return _grown(self.before.evaluations.get(model, 0.0), self.after.evaluations.get(model, 0.0))

    def busy(self, model: str) -> float:
        """The share of the time that a model's engine was busy."""
        busy_s = _grown(self.before.busy_s.get(model, 0.0), self.after.busy_s.get(model, 0.0))
        return min(busy_s / self.seconds, 1.0)

    def p_values(self, model: str, detector: str) -> tuple[float, ...]:
        """How many p-values fell into each bucket."""
        after = self.after.p_values.get((model, detector), ())
        before = self.before.p_values.get((model, detector), (0.0,) * len(after))
        return tuple(_grown(a, b) for a, b in zip(before, after, strict=True))


def _grown(before: float, after: float) -> float:
    return after - before if after >= before else after


class History:
    """Looks at a registry every few seconds, when told to, and remembers what it saw for some minutes."""

    def __init__(
        self, registry: CollectorRegistry, busy: Busy = dict, *, now_s: Callable[[], float] = time.monotonic
    ) -> None:
        names = (_REQUESTS, _ITEMS, _EVALUATIONS, _P_VALUES)
        self._registry = registry.restricted_registry(names)
        self._busy, self._now_s = busy, now_s
        self._lock = Lock()
        self._seen: deque[Totals] = deque(maxlen=round(WINDOW_S / LOOK_S) + 1)

    def look(self) -> None:
        """Take note of what is counted now."""
        totals = self._totals()
        with self._lock:
            self._seen.append(totals)

    def stretches(self) -> list[Stretch]:
        """What happened from look to look, the oldest first."""
        with self._lock:
            seen = list(self._seen)
        return [Stretch(a, b) for a, b in pairwise(seen)]

    def last(self, seconds: float = WINDOW_S) -> Stretch:
        """What happened in the last so many seconds, or since the first look."""
        with self._lock:
            seen = list(self._seen) or [self._totals()]
        after = seen[-1]
        before = next(each for each in seen if after.at_s - each.at_s <= seconds + LOOK_S / 2)
        return Stretch(before, after)

    def _totals(self) -> Totals:
        requests = dict.fromkeys(DECISIONS, 0.0)
        items: dict[tuple[str, str], float] = {}
        evaluations: defaultdict[str, float] = defaultdict(float)
        up_to: defaultdict[tuple[str, str], dict[float, float]] = defaultdict(dict)
        for family in self._registry.collect():
            for sample in family.samples:
                labels = sample.labels
                match sample.name:
                    case "guard_requests_total":
                        requests[labels["decision"]] += sample.value
                    case "guard_items_total":
                        items[labels["model"], labels["verdict"]] = sample.value
                    case "guard_model_evaluations_total":
                        evaluations[labels["model"]] += sample.value
                    case _:
                        up_to[labels["model"], labels["detector"]][float(labels["le"])] = sample.value
        p_values = {key: _in_each(found) for key, found in up_to.items()}
        return Totals(self._now_s(), requests, items, dict(evaluations), p_values, dict(self._busy()))


def _in_each(up_to: Mapping[float, float]) -> tuple[float, ...]:
    """Counts in each bucket from those up to its end. Nothing lies beyond 1."""
    ends = sorted(end for end in up_to if not math.isinf(end))
    counts = [up_to[end] for end in ends]
    return tuple(count - before for before, count in zip([0.0, *counts], counts, strict=False))


def per_second(stretches: Sequence[Stretch], decision: str) -> list[float]:
    """How many requests a second were dealt with like that, from look to look."""
    return [each.requests(decision) / each.seconds for each in stretches]


def verdicts(stretch: Stretch, model: str) -> dict[Verdict, float]:
    """A model's items by verdict."""
    return {verdict: stretch.items(model, verdict) for verdict in Verdict}
