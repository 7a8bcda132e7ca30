"""Closed label sets: no caller, and no client, can make Guard export more series than were planned."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Generic, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

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
            known_labels = tuple([label if label in known else OTHER for label, known in pairs])
            child = self._children.get(known_labels)
            if child is None:
                child = self._children[known_labels] = self._metric.labels(*known_labels)
        return child


class Inflight:
    """Counts what is under way: a context that may be entered again before it is left, by one thread."""

    def __init__(self) -> None:
        self._entered = 0

    def __enter__(self) -> None:
        self._entered += 1

    def __exit__(self, *_: object) -> None:
        self._entered -= 1

    def count(self) -> int:
        """How much is under way, asked by any thread."""
        return self._entered


class WatchedCounter(Collector):
    """A counter that somebody else keeps, and that is asked for at each scrape. The client library has none such."""

    def __init__(self, name: str, text: str, label: str, registry: CollectorRegistry) -> None:
        self._name, self._text, self._label = name, text, label
        self._asked: dict[str, Callable[[], float]] = {}
        registry.register(self)

    def watch(self, value: str, count: Callable[[], float]) -> None:
        """Export what `count` says, called from another thread, under this value of the label."""
        self._asked[value] = count

    def remove(self, value: str) -> None:
        """Export it no more."""
        self._asked.pop(value, None)

    def describe(self) -> Iterator[CounterMetricFamily]:
        """The metric without its series, by which the registry knows its name."""
        yield CounterMetricFamily(self._name, self._text, labels=(self._label,))

    def collect(self) -> Iterator[CounterMetricFamily]:
        """The metric as it is now."""
        for family in self.describe():
            for value, count in tuple(self._asked.items()):
                family.add_metric((value,), count())
            yield family
