"""The latest flagged requests, with a thumbnail each, in memory. Nothing that befalls them reaches a request."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import structlog

from guard.audit.item import item_data
from guard.audit.keys import pseudonym
from guard.audit.sampling import is_notable
from guard.audit.sighting import Sighting
from guard.console.thumbnail import Thumbnail, thumbnail_of
from guard.values import Decision, Verdict

_MOST_WAITING: Final = 16
_MOST_WAITING_BYTES: Final = 64 * 1024 * 1024
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Seen:
    """A flagged request, and the first of its items that has its verdict. `told` is what a record tells of that item.

    `client` is a pseudonym. `shape` is that of the model's input, and `layout` says where height and width are in it.
    """

    id: str
    at_s: float
    model: str
    mode: str
    protocol: str
    verdict: str
    intended: str
    action: str
    client: str
    item: int
    items: int
    told: Mapping[str, Any]
    thumbnail: Thumbnail | None
    shape: tuple[int, ...]
    layout: str


def is_flagged(decision: Decision) -> bool:
    """Whether somebody looked at a request and it was not, or in another mode would not be, simply let through."""
    return is_notable(decision) and decision.verdict is not Verdict.UNSCREENED


class Flagged:
    """Keeps the latest flagged requests: handed over on the event loop, made ready by whoever calls `work`.

    Where they come faster than that, older ones that wait are left out. `key` makes clients' pseudonyms.
    """

    def __init__(self, keep: int, key: Callable[[], bytes], *, max_image_pixels: int) -> None:
        self._key, self._max_image_pixels = key, max_image_pixels
        self._changed = threading.Condition()
        self._waiting: deque[Sighting] = deque()
        self._held_bytes = 0
        self._kept: deque[Seen] = deque(maxlen=keep)
        self.left_out = 0

    def one_of(self, decision: Decision) -> int:
        """Whether a request is kept."""
        return int(is_flagged(decision))

    def record(self, sighting: Sighting) -> None:
        """Keep a request."""
        with self._changed:
            self._waiting.append(sighting)
            self._held_bytes += sighting.tensor_bytes
            while len(self._waiting) > _MOST_WAITING or (
                len(self._waiting) > 1 and self._held_bytes > _MOST_WAITING_BYTES
            ):
                self._held_bytes -= self._waiting.popleft().tensor_bytes
                self.left_out += 1
            self._changed.notify()

    def work(self, timeout_s: float) -> bool:
        """Make one ready, if one comes in time. Whether one did."""
        with self._changed:
            if not self._waiting and not self._changed.wait_for(lambda: self._waiting, timeout_s):
                return False
            sighting = self._waiting.popleft()
            self._held_bytes -= sighting.tensor_bytes
        try:
            seen = self._seen(sighting)
        except Exception:  # noqa: BLE001 - a request that can't be shown is no reason to show no other
            _log.exception("a flagged request can't be shown in the console", decision_id=sighting.decision.id)
            return True
        with self._changed:
            self._kept.append(seen)
        return True

    def latest(self) -> list[Seen]:
        """What is kept, the latest first."""
        with self._changed:
            return list(reversed(self._kept))

    def find(self, decision_id: str) -> Seen | None:
        """What is kept of a decision, if it still is."""
        return next((each for each in self.latest() if each.id == decision_id), None)

    def _seen(self, sighting: Sighting) -> Seen:
        decision, provenance = sighting.decision, sighting.provenance
        item = next(iter(decision.culprits), 0)
        return Seen(
            decision.id,
            sighting.seen_s,
            decision.model,
            str(decision.mode),
            sighting.protocol,
            str(decision.verdict),
            str(decision.intended),
            str(decision.action),
            pseudonym(self._key(), sighting.client),
            item,
            len(decision.items),
            item_data(decision.items[item], provenance),
            thumbnail_of(sighting, item, self._max_image_pixels),
            provenance.shape,
            provenance.layout,
        )
