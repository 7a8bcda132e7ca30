"""The gate: one request through the stages, with a real engine on a model whose every answer is known."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from guard.config import ModelPolicy, Unlisted
from guard.decide.judge import Judge
from guard.errors import BackendError, MalformedRequest, ModelNotListed, NonFiniteInput
from guard.gate import Gate, GuardedModel
from guard.observe.metrics import Metrics
from guard.profile.spec import ConfidenceSpec
from guard.screen.build import build_detectors
from guard.screen.engine import Engine
from guard.screen.trial import MODEL
from guard.values import Action, Decision, InferRequest, Mode, UnscreenedReason, Verdict, WireTensor
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
        return await self.gate.screen(request(*items), deadline_s=deadline_s)

    async def occupy(self) -> asyncio.Future:
        """Keep the engine inside an evaluation until the model is opened again."""
        self.model.open.clear()
        self.model.entered.clear()
        busy = asyncio.wrap_future(self.engine.submit(np.array(CLEAN, np.float32)))
        await asyncio.to_thread(self.model.entered.wait)
        return busy

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


@pytest.fixture
def start() -> Iterator[Start]:
    """Builds a gate: `start(queue=.., live=.., verified=.., unlisted=.., running=.., **policy)`."""
    setups: list[Setup] = []

    def build(
        *,
        queue: int = 256,
        live: int = 16,
        verified: bool = True,
        unlisted: Unlisted = Unlisted.DENY,
        running: bool = True,
        **policy: object,
    ) -> Setup:
        model, metrics = Model(), Metrics()
        engine = Engine(
            detectors=build_detectors(PROFILE.detectors),
            backends={MODEL: model},
            secret=b"secret",
            max_queued_items=queue,
            max_live_items=live,
        )
        settings = ModelPolicy.model_validate({"profile": "unused", "mode": Mode.ENFORCE, **policy})
        judge = Judge(PROFILE, false_positive_rate=0.05)
        guarded = GuardedModel(INFO, settings, judge, engine, lambda: verified)
        metrics.watch_model(
            model="digits",
            detectors=("confidence",),
            mode=settings.mode,
            fingerprint=INFO.fingerprint,
            false_positive_rate=0.05,
            calibration_samples=200,
            created="",
        )
        if running:
            engine.start()
        gate = Gate({"digits": guarded}, unlisted=unlisted, max_batch_items=16, metrics=metrics)
        setups.append(Setup(gate, model, engine, metrics))
        return setups[-1]

    yield build
    for setup in setups:
        setup.model.open.set()
        setup.engine.stop()


@pytest.mark.parametrize("offset", [0, 3])
async def test_clean(start: Start, offset: int) -> None:
    """A clean request is forwarded, wherever in its message the tensor lies; each item costs one evaluation."""
    guard = start()
    decision = await guard.gate.screen(request(CLEAN, CLEAN, offset=offset), deadline_s=None)
    assert (decision.verdict, decision.action, decision.culprits) == (Verdict.CLEAN, Action.FORWARD, (0, 1))
    assert decision.spent == {"label": 2}
    assert guard.model.evaluated == [CLEAN, CLEAN]


async def test_one_adversarial_item_of_eight(start: Start) -> None:
    """A batch with one adversarial item is rejected, and says which one it is."""
    decision = await start().screen(*[CLEAN] * 5, ADVERSARIAL, *[CLEAN] * 2)
    assert (decision.verdict, decision.intended, decision.action) == (
        Verdict.ADVERSARIAL,
        Action.REJECT,
        Action.REJECT,
    )
    assert decision.culprits == (5,)
    assert decision.p_value == decision.items[5].p_value == 1 / 201


async def test_concurrent_requests_keep_their_items(start: Start) -> None:
    """Requests screened together are each judged by their own items."""
    guard = start()
    batches = [[ADVERSARIAL if row == n % 4 else CLEAN for row in range(3)] for n in range(24)]
    decisions = await asyncio.gather(*(guard.screen(*batch) for batch in batches))
    assert [d.culprits for d in decisions] == [(n % 4,) if n % 4 < 3 else (0, 1, 2) for n in range(24)]
    assert len({d.id for d in decisions}) == 24


async def test_unlisted_model(start: Start) -> None:
    """A model that no policy names is refused, or passed unscreened and counted, as the settings say."""
    with pytest.raises(ModelNotListed, match="'other' is not under guard: name it in the policy's `models`"):
        await start().gate.screen(request(CLEAN, model="other"), deadline_s=None)
    passing = start(unlisted=Unlisted.PASS)
    decision = await passing.gate.screen(request(ADVERSARIAL, model="other"), deadline_s=None)
    assert (decision.verdict, decision.action) == (Verdict.UNSCREENED, Action.FORWARD)
    assert decision.reason is UnscreenedReason.UNLISTED_MODEL
    assert passing.counted("guard_unscreened_requests_total") == {"unlisted_model": 1}
    assert passing.model.evaluated == []


BAD = [
    (request(*[CLEAN] * 17), MalformedRequest, "holds 17 items and Guard screens 16 at most: send smaller batches"),
    (request(CLEAN, (float("nan"), 1.0)), NonFiniteInput, "at item 1 of 2"),
    (InferRequest("digits", "", "", ()), MalformedRequest, "exactly one input, named 'input'"),
]


@pytest.mark.parametrize(("bad", "error", "says"), BAD)
@pytest.mark.parametrize("mode", [Mode.FLAG, Mode.ENFORCE])
async def test_bad_request(start: Start, bad: InferRequest, error: type[Exception], says: str, mode: Mode) -> None:
    """A request that can't be understood is refused before it costs anything, saying what is wrong."""
    guard = start(mode=mode)
    with pytest.raises(error, match=says):
        await guard.gate.screen(bad, deadline_s=None)
    assert guard.model.evaluated == []


@pytest.mark.parametrize("bad", [bad for bad, _, _ in BAD])
async def test_shadow_refuses_nothing(start: Start, bad: InferRequest) -> None:
    """In shadow mode the same requests pass, counted as unscreened, and the wish of the policy is kept."""
    guard = start(mode=Mode.SHADOW)
    decision = await guard.gate.screen(bad, deadline_s=None)
    assert (decision.verdict, decision.reason) == (Verdict.UNSCREENED, UnscreenedReason.INVALID_INPUT)
    assert (decision.intended, decision.action) == (Action.REJECT, Action.FORWARD)
    assert guard.counted("guard_unscreened_requests_total") == {"invalid_input": 1}
    assert guard.model.evaluated == []


async def test_unverified_model(start: Start) -> None:
    """While the served model is not recognised nothing is screened, and nothing is called clean."""
    guard = start(verified=False)
    decision = await guard.screen(CLEAN, CLEAN)
    assert (decision.verdict, decision.reason, len(decision.items)) == (
        Verdict.UNSCREENED,
        UnscreenedReason.UNVERIFIED,
        2,
    )
    assert guard.model.evaluated == []


async def test_overload(start: Start) -> None:
    """Items that find the queue full are unscreened, those before them in the batch are judged, and nothing hangs."""
    guard = start(queue=1, live=1)
    busy = await guard.occupy()
    screening = asyncio.create_task(guard.screen(CLEAN, CLEAN, CLEAN))
    await asyncio.sleep(0)  # the task runs up to its wait for the engine
    guard.model.open.set()
    decision = await asyncio.wait_for(screening, 5)
    await busy
    assert [item.verdict for item in decision.items] == [Verdict.CLEAN, Verdict.UNSCREENED, Verdict.UNSCREENED]
    assert (decision.reason, decision.action) == (UnscreenedReason.OVERLOAD, Action.REJECT)
    assert guard.counted("guard_unscreened_requests_total") == {"overload": 1}


async def test_overload_from_the_first_item(start: Start) -> None:
    """A request that finds no room at all is answered at once."""
    guard = start(queue=1, live=1)
    busy = await guard.occupy()
    queued = asyncio.wrap_future(guard.engine.submit(np.array(CLEAN, np.float32)))
    decision = await guard.screen(ADVERSARIAL, CLEAN)
    assert [item.reason for item in decision.items] == [UnscreenedReason.OVERLOAD] * 2
    guard.model.open.set()
    await asyncio.gather(busy, queued)
    assert guard.model.evaluated == [CLEAN, CLEAN]


@pytest.mark.parametrize(
    ("budget_s", "deadline_s"), [(0.05, None), (60.0, 0.05), (0.05, 60.0), (60.0, 0.0), (60.0, -1.0)]
)
async def test_deadline(start: Start, budget_s: float, deadline_s: float | None) -> None:
    """Screening takes no longer than the client's deadline and the policy's budget, and costs nothing once they end."""
    guard = start(live=1, screening_budget_s=budget_s)
    busy = await guard.occupy()
    decision = await asyncio.wait_for(guard.screen(ADVERSARIAL, CLEAN, deadline_s=deadline_s), 5)
    assert [item.reason for item in decision.items] == [UnscreenedReason.DEADLINE] * 2
    assert (decision.verdict, decision.reason) == (Verdict.UNSCREENED, UnscreenedReason.DEADLINE)
    guard.model.open.set()
    await busy
    await guard.screen(ADVERSARIAL)
    assert guard.model.evaluated == [CLEAN, ADVERSARIAL], "the items that expired were never evaluated"


async def test_cancellation(start: Start) -> None:
    """A caller that goes away takes its items along: those that wait are never evaluated."""
    guard = start(live=1)
    busy = await guard.occupy()
    screening = asyncio.create_task(guard.screen(ADVERSARIAL, ADVERSARIAL, ADVERSARIAL))
    await asyncio.sleep(0)  # as in test_overload
    assert guard.engine.depth == 3
    screening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await screening
    guard.model.open.set()
    await busy
    await guard.screen(CLEAN)
    assert guard.model.evaluated == [CLEAN, CLEAN]


async def test_engine_that_does_not_run(start: Start) -> None:
    """Without an engine every item is a fault, at once, and none is called clean."""
    decision = await start(running=False).screen(CLEAN, CLEAN)
    assert [item.reason for item in decision.items] == [UnscreenedReason.FAULT] * 2


async def test_engine_that_stops(start: Start) -> None:
    """An engine that stops while a request waits answers it with faults."""
    guard = start(live=1)
    busy = await guard.occupy()
    screening = asyncio.create_task(guard.screen(CLEAN, CLEAN))
    await asyncio.sleep(0)  # as in test_overload
    guard.engine.stop(timeout_s=0)
    guard.model.open.set()
    decision = await asyncio.wait_for(screening, 5)
    assert [item.reason for item in decision.items] == [UnscreenedReason.FAULT] * 2
    await asyncio.wait([busy])
    assert busy.exception() is not None


@pytest.mark.parametrize("failure", [BackendError("gone"), ValueError("a bug")])
async def test_failing_replica(start: Start, failure: Exception) -> None:
    """A replica that fails makes items unscreened; the next request finds the engine at work."""
    guard = start()
    guard.model.failure = failure
    decision = await guard.screen(CLEAN)
    assert (decision.verdict, decision.reason) == (Verdict.UNSCREENED, UnscreenedReason.FAULT)
    guard.model.failure = None
    assert (await guard.screen(CLEAN)).verdict is Verdict.CLEAN


async def test_each_request_is_counted_once(start: Start) -> None:
    """The metrics hold each decision, item and evaluation once; a refused request is none of these."""
    guard = start()
    await guard.screen(CLEAN, ADVERSARIAL)
    await guard.screen(CLEAN)
    with pytest.raises(MalformedRequest):
        await guard.gate.screen(BAD[0][0], deadline_s=None)
    assert guard.counted("guard_items_total") == {"clean": 2, "adversarial": 1}
    assert guard.counted("guard_verdicts_total") == {"confidence": 1}
    assert guard.counted("guard_model_evaluations_total") == {"label": 3}
    assert guard.counted("guard_unscreened_requests_total") == {}
