"""What the engine is tested with: replicas with known logits, and ways to look at what came out."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from guard.model.backend import Backend
from guard.profile.spec import DetectorSpec
from guard.screen.build import build_detectors
from guard.screen.engine import Engine
from guard.screen.live import Decided
from guard.screen.trial import ITSELF, MODEL, Detector, Probes, SequentialTrial, Trial, compare
from guard.values import Finding, Float32Array, ModelInfo, OutputKind, Screening

TIMEOUT_S = 60.0
"""How long a test waits for what must come."""

Respond = Callable[[Tensor], Tensor]


def model_info(shape: tuple[int, ...] = (3,), *, classes: int = 3, fingerprint: str = "ab") -> ModelInfo:
    """A model of inputs between 0 and 1000, a range in which the tests hide an input's identity."""
    return ModelInfo("m", "x", "y", "FP32", shape, classes, (0.0, 1000.0), OutputKind.LOGITS, fingerprint)


class FakeBackend:
    """A replica that answers by a function of its batch, and keeps the batches."""

    def __init__(self, respond: Respond, *, info: ModelInfo | None = None, batch: int = 32) -> None:
        self.info = info or model_info()
        self.preferred_batch = batch
        self.batches: list[Tensor] = []
        self._respond = respond

    @property
    def sizes(self) -> list[int]:
        """Copies in each batch."""
        return [len(batch) for batch in self.batches]

    def logits(self, x: Tensor) -> Tensor:
        """Answer."""
        self.batches.append(x.clone())  # the engine makes its next copies in the same memory
        return self._respond(x)

    def close(self) -> None:
        """Nothing to free."""


class HeldBackend(FakeBackend):
    """A replica that waits in each batch until it is released."""

    def __init__(self, respond: Respond, *, batch: int = 32) -> None:
        super().__init__(respond, batch=batch)
        self.entered, self.release = threading.Event(), threading.Event()

    def logits(self, x: Tensor) -> Tensor:
        """Say that the batch is here, wait, answer."""
        self.entered.set()
        assert self.release.wait(TIMEOUT_S)
        return super().logits(x)


def steady(x: Tensor) -> Tensor:
    """Class 1 for every copy, by a margin of 2."""
    return torch.tensor([0.0, 3.0, 1.0]).expand(len(x), 3)


def pixels(x: Tensor) -> Tensor:
    """The copies' own first values, scaled: logits that tell each copy of each input from all others, bit by bit."""
    return torch.stack([x[:, 1] * 8, x[:, 2] * 8, x[:, 0] / 1000], dim=1)


def item(number: int) -> Float32Array:
    """An input whose identity survives the noise, with both its labels in reach."""
    rng = np.random.default_rng(number)
    return np.array([100 * number, *rng.uniform(0, 0.6, 2)], dtype=np.float32)


def itself_and_mutants(backend: FakeBackend, x: Float32Array) -> tuple[Tensor, Tensor]:
    """What a replica was asked about one input: the input, which may be anywhere in its batch, and its mutants."""
    rows = torch.cat(backend.batches)
    unchanged = (rows == torch.from_numpy(x)).all(dim=1)
    return rows[unchanged], rows[~unchanged]


def numbers(batch: Tensor) -> set[int]:
    """Whose copies are in a batch of `item`s."""
    return {round(value) for value in (batch[:, 0] / 100).tolist()}


@contextmanager
def running(
    backend: Backend,
    detectors: Sequence[Detector],
    *,
    others: Mapping[str, Backend] | None = None,
    secret: bytes = b"secret",
    decided: Decided | None = None,
    max_queued_items: int = 256,
    max_live_items: int = 16,
) -> Iterator[Engine]:
    """An engine, started, and stopped in the end."""
    engine = Engine(
        detectors=detectors,
        backends={MODEL: backend, **(others or {})},
        secret=secret,
        decided=decided,
        max_queued_items=max_queued_items,
        max_live_items=max_live_items,
    )
    engine.start()
    try:
        yield engine
    finally:
        if isinstance(backend, HeldBackend):
            backend.release.set()
        engine.stop()


def screen(backend: Backend, specs: Sequence[DetectorSpec], x: Float32Array, secret: bytes = b"secret") -> Screening:
    """Screen one input in an engine of its own."""
    with running(backend, build_detectors(specs), secret=secret) as engine:
        return engine.submit(x).result(TIMEOUT_S)


def eventually(holds: Callable[[], bool]) -> bool:
    """Whether it comes to hold: the engine moves on a thread of its own."""
    until = time.monotonic() + TIMEOUT_S
    while not holds() and time.monotonic() < until:
        time.sleep(0.001)
    return holds()


def untimed(screening: Screening) -> tuple[int | None, tuple[Finding, ...]]:
    """Label and findings, without how long they took."""
    return screening.label, tuple(replace(finding, duration_s=0.0) for finding in screening.findings)


def drive(trial: Trial | SequentialTrial, answer: Callable[[Probes], Tensor]) -> int:
    """Run a trial to its end without an engine; how many copies that took, the input itself counted."""
    if isinstance(trial, SequentialTrial):
        return 1 + _drive_sequential(trial, answer)
    evaluations = 0
    label = -1
    while asked := trial.ask():
        for probes in asked:
            logits = answer(probes).numpy()
            label = int(logits[0].argmax()) if probes is ITSELF else label
            trial.tell(probes, compare(logits, np.full(len(logits), label)))
            evaluations += probes.copies
    return evaluations


def _drive_sequential(trial: SequentialTrial, answer: Callable[[Probes], Tensor]) -> int:
    label, known, ended = int(answer(ITSELF)[0].argmax()), 0, False
    while not ended:
        assert trial.wanted > known
        logits = answer(Probes(trial.source, known, trial.wanted - known)).numpy()
        known += len(logits)
        ended = trial.take(compare(logits, np.full(len(logits), label)))
    assert trial.wanted == 0
    return known
