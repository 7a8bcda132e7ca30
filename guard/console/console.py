"""The console as one object: what it keeps, who may see it, and the thread that keeps it new."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path

import structlog
from prometheus_client import CollectorRegistry

from guard.audit.keys import PSEUDONYM_KEY, watch_key
from guard.config import Settings
from guard.console.access import Access, check_reach, watch_token
from guard.console.flagged import Flagged
from guard.console.pages import Pages
from guard.console.readings import LOOK_S, History
from guard.console.site import Site
from guard.console.state import Engines

_SHARE = 0.2
"""Of the time, at most, that is spent on making flagged requests ready: the interpreter is shared with requests."""

_LONGEST_PAUSE_S = 1.0
_log = structlog.get_logger(__name__)


class Console:
    """A web page about a running Guard. `flagged` is shown requests on the event loop, `site` answers on other threads.

    Raises:
        ConfigError: others than this machine would reach it without a token, or a file of it can't be used.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        registry: CollectorRegistry,
        engines: Engines,
        unready: Callable[[], list[str]],
        refused: Callable[[], str],
    ) -> None:
        check_reach(settings)
        console, key_file = settings.console, settings.audit.pseudonym_key_file
        access = Access(None if console.token_file is None else watch_token(console.token_file))
        self.flagged = Flagged(console.keep, _key(key_file), max_image_pixels=settings.limits.max_image_pixels)
        self._history = History(registry, lambda: {name: load.busy_s for name, load in engines().items()})
        pages = Pages(
            registry=registry,
            history=self._history,
            flagged=self.flagged,
            engines=engines,
            unready=unready,
            refused=refused,
            signs_out=access.asks,
        )
        self.site = Site(pages, self.flagged, access)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="guard-console", daemon=True)

    def start(self) -> None:
        """Start keeping it new."""
        self._history.look()
        self._thread.start()

    def close(self) -> None:
        """Stop."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        look_at_s = time.monotonic() + LOOK_S
        while not self._stopping.is_set():
            if time.monotonic() >= look_at_s:
                look_at_s = time.monotonic() + LOOK_S
                self._look()
            self._work(min(look_at_s - time.monotonic(), 0.25))

    def _work(self, timeout_s: float) -> None:
        began_s = time.thread_time()
        if self.flagged.work(max(timeout_s, 0.0)):
            spent_s = time.thread_time() - began_s
            self._stopping.wait(min(spent_s * (1 / _SHARE - 1), _LONGEST_PAUSE_S))

    def _look(self) -> None:
        try:
            self._history.look()
        except Exception:  # noqa: BLE001 - the thread goes on
            _log.exception("the console could not look at the metrics")


def _key(file: Path | None) -> Callable[[], bytes]:
    """What clients' pseudonyms are made with: the audit log's key, so that they are the same there, or a fresh one."""
    if file is not None:
        return watch_key(PSEUDONYM_KEY, file, quiet=True).current
    fresh = secrets.token_bytes(32)
    return lambda: fresh
