"""Whether Guard is going: a server that stops beside it asks here, and stops once nobody needs it any more.

Kubernetes ends all containers of a pod at once, but for a sidecar, which it ends last. So the server's preStop hook
asks for `/wait-for-drain`, and is answered when the last request through Guard has been.
"""

from __future__ import annotations

import threading
from http import HTTPStatus

from guard.observe.answer import Answer, text, unavailable

BEGINS_WITHIN_S = 10.0
"""Both hooks run at the same time, and Guard's may come second. Where none comes, only the server is restarted."""

_MOST_WAITING = 8
_SLACK_S = 5.0


class Drain:
    """How far a drain is, which takes `longest_s` seconds at most. `begun` and `ended` are set by who does it."""

    def __init__(self, longest_s: float, *, begins_within_s: float = BEGINS_WITHIN_S) -> None:
        self.begun = threading.Event()
        self.ended = threading.Event()
        self._longest_s = longest_s
        self._begins_within_s = begins_within_s
        self._waiting = threading.BoundedSemaphore(_MOST_WAITING)

    def wait(self) -> Answer:
        """The page: it is answered when the drain has ended, or soon if there is none."""
        if not self._waiting.acquire(blocking=False):
            return unavailable([f"{_MOST_WAITING} wait for the drain already"])
        try:
            if not self.begun.wait(self._begins_within_s):
                return text(HTTPStatus.OK, "guard is not draining")
            if self.ended.wait(self._longest_s + _SLACK_S):
                return text(HTTPStatus.OK, "drained")
            return unavailable(["guard is still draining"])
        finally:
            self._waiting.release()
