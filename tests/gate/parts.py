"""A gate with a real engine, on a model whose every answer is known."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from guard.gate import Gate
from guard.observe.metrics import Metrics
from guard.profile.spec import ConfidenceSpec
from guard.screen.engine import Engine
from guard.values import Decision, InferRequest, WireTensor
from tests.profile.parts import INFO, a_profile, benign

CLEAN = (6.0, 1.0)
ADVERSARIAL = (3.125, 3.0)
"""The model's logits are its input: benign inputs lead by five, and this one by next to nothing."""

_RNG = np.random.default_rng(0)
_SCORES = [benign(np.zeros(200, np.int64), confidence=_RNG.normal(-5, 1, 200)) for _ in range(2)]
PROFILE = a_profile((ConfidenceSpec(),), *_SCORES)


class Model:
    """A replica that answers its input. Closed, it waits inside the evaluation until it is opened."""

    def __init__(self) -> None:
        self.info = INFO
        self.preferred_batch = 32
        self.evaluated: list[tuple[float, ...]] = []
        self.failure: Exception | None = None
        self.entered = threading.Event()
        self.open = threading.Event()
        self.open.set()

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """Echo the batch."""
        self.evaluated += [tuple(row) for row in x.tolist()]
        self.entered.set()
        self.open.wait()
        if self.failure is not None:
            raise self.failure
        return x

    def close(self) -> None:
        """Nothing to free."""


@dataclass
class Setup:
    """A gate and all that is around it."""

    gate: Gate
    model: Model
    engine: Engine
    metrics: Metrics

    async def screen(self, *items: Sequence[float], deadline_s: float | None = None) -> Decision:
        """Screen a batch."""
        return await self.ask(request(*items), deadline_s=deadline_s)

    async def ask(
        self, request: InferRequest, *, decision_id: str = "d-1", deadline_s: float | None = None, client: str = ""
    ) -> Decision:
        """Screen a request."""
        return await self.gate.screen(request, decision_id=decision_id, deadline_s=deadline_s, client=client)

    async def occupy(self) -> asyncio.Future:
        """Keep the engine inside an evaluation until the model is opened again."""
        self.model.open.clear()
        self.model.entered.clear()
        busy = asyncio.wrap_future(self.engine.submit(np.array(CLEAN, np.float32)))
        await asyncio.to_thread(self.model.entered.wait)
        return busy

    def total(self, name: str) -> float:
        """What a counter says, over all of its labels."""
        families = text_string_to_metric_families(generate_latest(self.metrics.registry).decode())
        return sum(sample.value for family in families for sample in family.samples if sample.name == name)

    def counted(self, name: str) -> dict[str, float]:
        """What a counter says above 0, by the value of its other label than the model."""
        families = text_string_to_metric_families(generate_latest(self.metrics.registry).decode())
        samples = [sample for family in families for sample in family.samples if sample.name == name and sample.value]
        return {next(v for k, v in sample.labels.items() if k != "model"): sample.value for sample in samples}


def request(*items: Sequence[float], model: str = "digits", offset: int = 0) -> InferRequest:
    """A raw FP32 request; `offset` says how far into the message its bytes begin."""
    values = np.array(items, np.float32).reshape(-1, 2)
    message = memoryview(b"x" * offset + values.tobytes())
    return InferRequest(model, "", "", (WireTensor("input", "FP32", values.shape, raw=message[offset:]),))


Start = Callable[..., Setup]
