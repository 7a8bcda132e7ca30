"""Closed label sets: no caller, and no client, can make Guard export more series than were planned."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Generic, TypeVar

from prometheus_client import Counter, Gauge, Histogram

OTHER = "other"
"""The value of a label outside its closed set, for example of a model that isn't guarded."""

_Metric = TypeVar("_Metric", Counter, Gauge, Histogram)


class Closed(Generic[_Metric]):
    """A metric whose children are made in advance, at 0, and looked up by their labels."""

    def __init__(self, metric: _Metric, *labels: Sequence[str]) -> None:
        self._metric: _Metric = metric
        self._known: list[set[str]] = [set() for _ in labels]
        self._children: dict[tuple[str, ...], _Metric] = {}
        self.add(*labels)

    def add(self, *labels: Sequence[str]) -> None:
        """Create a child for each combination of label values; one sequence for each label."""
        for known, values in zip(self._known, labels, strict=True):
            known.update(values)
        for combination in product(*labels):
            self._children[combination] = self._metric.labels(*combination)

    def remove(self, value: str) -> None:
        """Remove the children with this value of the first label: what comes in about it from now on is `other`."""
        self._known[0].discard(value)
        for labels in [labels for labels in tuple(self._children) if labels[0] == value]:
            del self._children[labels]
            self._metric.remove(*labels)

    def __getitem__(self, labels: tuple[str, ...]) -> _Metric:
        """The child of these labels; values that were never added read `other`."""
        child = self._children.get(labels)
        if child is None:
            pairs = zip(labels, self._known, strict=True)
            known_labels = tuple(label if label in known else OTHER for label, known in pairs)
            child = self._children.get(known_labels)
            if child is None:
                child = self._children[known_labels] = self._metric.labels(*known_labels)
        return child
