"""An engine in a process of its own, behind a pipe; to those who hand in inputs it looks like one in theirs."""

from __future__ import annotations

import itertools
import multiprocessing
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, Self

import numpy as np
import torch
from torch import nn

from benchmarks.engine.subject import Subject, engine
from guard.errors import GuardError
from guard.profile.spec import DetectorSpec
from guard.values import Float32Array, Screening

_START_S = 120.0


class Remote:
    """Starts a process with an engine, and ends it. A cancelled future is screened all the same, and then forgotten."""

    def __init__(self, subject: Subject, specs: Sequence[DetectorSpec]) -> None:
        lean = replace(subject, module=nn.Identity(), images=subject.images[:0], attacked=subject.attacked[:0])
        context = multiprocessing.get_context("spawn")  # what holds threads can't be forked
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, lean, tuple(specs)), daemon=True)
        self._process.start()
        theirs.close()
        self._numbers = itertools.count()
        self._waiting: dict[int, Future[Screening]] = {}
        self._sending = threading.Lock()
        self._reader = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> Self:
        """Wait until it is ready."""
        if not self._pipe.poll(_START_S) or self._pipe.recv() != "ready":
            raise TimeoutError("the engine's process did not start")
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        with self._sending:
            self._pipe.send(None)
        self._reader.join()
        self._process.join()
        self._pipe.close()

    @property
    def pid(self) -> int:
        """The process."""
        assert self._process.pid is not None  # noqa: S101 - it was started
        return self._process.pid

    def submit(self, x: Float32Array, *, deadline_s: float | None = None) -> Future[Screening]:
        """Hand in one input. What the engine refuses, the future fails with."""
        future: Future[Screening] = Future()
        with self._sending:
            number = next(self._numbers)
            self._waiting[number] = future
            self._pipe.send((number, x, deadline_s))
        return future

    def _read(self) -> None:
        while (answer := self._pipe.recv()) is not None:
            number, screening, error = answer
            future = self._waiting.pop(number)
            if not future.set_running_or_notify_cancel():
                continue
            if error is None:
                future.set_result(screening)
            else:
                future.set_exception(error)


def serve(pipe: Connection[Any, Any], subject: Subject, specs: tuple[DetectorSpec, ...]) -> None:
    """What the process does: screen what comes, and send back what came of it, until nothing more comes."""
    torch.set_num_threads(1)
    sending = threading.Lock()

    def answer(number: int, future: Future[Screening]) -> None:
        error = future.exception()
        with sending:
            pipe.send((number, future.result() if error is None else None, error))

    with engine(subject, specs) as running:
        pipe.send("ready")
        while (asked := pipe.recv()) is not None:
            number, x, deadline_s = asked
            try:
                running.submit(np.asarray(x), deadline_s=deadline_s).add_done_callback(partial(answer, number))
            except GuardError as exc:
                with sending:
                    pipe.send((number, None, exc))
    with sending:
        pipe.send(None)
