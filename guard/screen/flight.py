"""Batches under way: a thread runs the models, so that the engine makes the next copies meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import SimpleQueue

import torch
from torch import Tensor

from guard.screen.live import Share


class Pending:
    """An answer that a model will give, or has given."""

    __slots__ = ("_answer", "_ask", "_busy", "_error")

    def __init__(self, ask: Callable[[], Tensor]) -> None:
        self._ask = ask
        self._answer: Tensor | None = None
        self._error: BaseException | None = None
        self._busy = threading.Lock()
        self._busy.acquire()

    def run(self) -> None:
        """Ask; whatever goes wrong is raised where the answer is fetched."""
        try:
            self._answer = self._ask()
        except BaseException as exc:  # noqa: BLE001 - as said
            self._error = exc
        finally:
            self._busy.release()

    def result(self) -> Tensor:
        """Wait for the answer, and fetch it."""
        with self._busy:
            if self._answer is None:
                raise self._error or RuntimeError("a model gave no answer")
            return self._answer


@dataclass(frozen=True, slots=True, eq=False)
class Flight:
    """A batch that a replica classifies, and whose copies are in it."""

    shares: Sequence[Share]
    batch: Tensor
    copies: int
    began: float
    pending: Pending


class Evaluator:
    """The thread that runs the models: it needs the interpreter only to begin and to end."""

    def __init__(self) -> None:
        self._asked: SimpleQueue[Pending | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="guard-evaluator", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Let the thread end after what was asked so far."""
        self._asked.put(None)

    def join(self, timeout_s: float) -> None:
        """Wait for the thread to end, which it does not while a model hangs."""
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def ask(self, pending: Pending) -> None:
        """Run it after those that were asked before."""
        self._asked.put(pending)

    def _run(self) -> None:
        torch.set_num_threads(1)  # of this thread: the batches are small, and the cores are shared with a server
        while (pending := self._asked.get()) is not None:
            pending.run()
