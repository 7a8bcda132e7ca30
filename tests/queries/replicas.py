"""Replicas of a Guard's memory of queries that share through a store."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np

from guard.observe.metrics import Metrics
from guard.queries.fingerprint import Fingerprinter
from guard.queries.memory import QueryMemory, Radii
from guard.queries.record import Seal
from guard.queries.store import QueryStore
from guard.queries.watch import QueryWatch
from guard.sharing import store_address
from guard.values import Float32Array, Probing
from tests.queries.parts import SECRET, SHAPE
from tests.support.waiting import wait_for

MODEL = "digits"
MODEL_FINGERPRINT = "0" * 64
LIMIT = 3


class Replica:
    """One model's watch, its store, and their metrics. `look_s` are the seconds that each look took."""

    def __init__(
        self,
        url: str,
        *,
        secret: bytes = SECRET,
        model: str = MODEL,
        fingerprint: str = MODEL_FINGERPRINT,
        span: float = 1.0,
        capacity: int = 1024,
        keep_s: float = 1000.0,
        **connection: Any,
    ) -> None:
        self.metrics = Metrics()
        fingerprinter = Fingerprinter(secret, model, SHAPE, span)
        self.watch = QueryWatch(
            fingerprinter, QueryMemory(capacity=capacity, keep_s=keep_s, radii=Radii(76, 60)), limit=LIMIT
        )
        self.seal = Seal(fingerprinter.key(fingerprint))
        self.store = QueryStore(
            store_address(url), self.metrics, **({"password": None, "ca_file": None, "timeout_s": 30.0} | connection)
        )
        self.store.share(self.watch, self.seal, model=MODEL, capacity=capacity, keep_s=keep_s)
        self.metrics.watch_sharing(MODEL, lambda: self.store.answers)
        self.look_s: list[float] = []

    def look(self, image: Float32Array, client: str = "a") -> Probing:
        """What came before an image, to this one's knowledge."""
        started_s = time.monotonic()
        (found,) = self.watch.look(image[None], client).result()
        self.look_s.append(time.monotonic() - started_s)
        return found

    def counted(self, outcome: str) -> float:
        """Queries between replicas, by what became of them."""
        return self._sample("guard_shared_queries_total", {"model": MODEL, "outcome": outcome})

    def failures(self, reason: str) -> float:
        """Exchanges that failed."""
        return self._sample("guard_query_store_errors_total", {"reason": reason})

    @property
    def up(self) -> bool:
        """Whether the metrics say that queries are shared."""
        return self._sample("guard_query_store_up", {"model": MODEL}) == 1

    def close(self) -> None:
        """Stop, as a sidecar does."""
        self.store.close()
        self.watch.close()

    def _sample(self, name: str, labels: dict[str, str]) -> float:
        value = self.metrics.registry.get_sample_value(name, labels)
        assert value is not None, name
        return value


@contextmanager
def replicas(url: str, *choices: dict[str, Any]) -> Iterator[list[Replica]]:
    """Started replicas, one for each of the choices, stopped at the end."""
    with ExitStack() as stack:
        made = [Replica(url, **each) for each in choices]
        for each in made:
            stack.callback(each.close)
            each.store.start()
        yield made


def rotate(attack: np.ndarray, among: list[Replica], *, wait: bool = True) -> list[bool]:
    """Send an attack's queries to one replica after the other, and let each know of the last: which were suspicious."""
    known = len(among[0].watch)
    found = []
    for number, image in enumerate(attack):
        found.append(among[number % len(among)].look(image).suspicious)
        if wait:
            wait_for(lambda: all(len(each.watch) == known + len(found) for each in among))
    return found
