"""An event loop on a thread of its own, for servers and screening beside blocking code."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self, TypeVar

_Result = TypeVar("_Result")


class LoopThread:
    """Runs coroutines: `with LoopThread() as loop: port = loop.run(server.start())`."""

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="guard-servers", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def run(self, coroutine: Coroutine[Any, Any, _Result], *, timeout_s: float = 60.0) -> _Result:
        """Run a coroutine on the loop and wait for its result.

        Raises:
            TimeoutError: it did not end in time.
        """
        return self.submit(coroutine).result(timeout_s)

    def submit(self, coroutine: Coroutine[Any, Any, _Result]) -> Future[_Result]:
        """Begin to run a coroutine on the loop. Its result comes to other threads; to cancel that cancels it."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)
