"""The soak in short: its accounts add up, a fifth is cancelled, and what leaks makes it fail."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import Future
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import typer

from benchmarks import data, models
from benchmarks.engine import soak as command
from benchmarks.engine.soak import report, soak
from benchmarks.engine.soak_traffic import Plan
from benchmarks.engine.subject import Subject
from guard.model.torch import TorchBackend
from guard.profile.spec import Gaussian, SensitivitySpec
from guard.screen.build import build_detectors
from guard.screen.engine import Engine
from guard.screen.trial import MODEL
from guard.values import Float32Array, ModelInfo, OutputKind, Screening

LENET = ModelInfo("LeNet-5", "input", "logits", "FP32", (1, 28, 28), 10, (0.0, 1.0), OutputKind.LOGITS, "lenet")
IMAGES = np.random.default_rng(0).random((20, *LENET.shape), np.float32)
PLAN = Plan(3.0, 100.0, 0, sample_s=0.02, patience_s=20.0, flat_mb_per_h=72_000)
"""20 MB a second count as flat: a healthy engine moves less, and the planted leak ten times as much."""
CHEAP = SensitivitySpec(mutation=Gaussian(sigma=0.25), p0=0.02, p1=0.2, cap=8)
_MB = 1024 * 1024


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    """An engine on LeNet-5, warm."""
    backend = TorchBackend(models.lenet5(), LENET)
    engine = Engine(detectors=build_detectors([CHEAP]), backends={MODEL: backend}, secret=b"soak")
    engine.start()
    for future in [engine.submit(image) for image in IMAGES]:
        future.result()
    yield engine
    engine.stop()
    backend.close()


class Leaky:
    """An engine that keeps something of each request, never answers one in `forgets`, or answers before it returns."""

    def __init__(self, engine: Engine, *, keeps_bytes: int = 0, forgets: int = 0, waits: bool = False) -> None:
        self._engine, self._keeps_bytes, self._forgets, self._waits = engine, keeps_bytes, forgets, waits
        self.kept: list[bytearray] = []
        self.count = 0

    def submit(self, x: Float32Array, *, deadline_s: float | None = None) -> Future[Screening]:
        """Hand in one input, or forget it."""
        self.count += 1
        if self._keeps_bytes:
            self.kept.append(bytearray(b"1" * self._keeps_bytes))
        if self._forgets and self.count % self._forgets == 0:
            return _Deaf()
        future = self._engine.submit(x, deadline_s=deadline_s)
        if self._waits:
            future.exception()
        return future

    @property
    def live(self) -> int:
        """Items that are being screened."""
        return self._engine.live

    @property
    def depth(self) -> int:
        """Items waiting to be admitted."""
        return self._engine.depth


class _Deaf(Future[Screening]):
    """A future that nobody will answer, and that does not let itself be cancelled."""

    def cancel(self) -> bool:
        """No."""
        return False


def test_a_sound_engine_holds(engine: Engine) -> None:
    """Every request is accounted for, about a fifth of all was cancelled under way, and the report says so."""
    found = soak(engine, IMAGES, PLAN)
    assert found.holds
    assert found.lost == found.live_at_end == found.queued_at_end == 0
    assert 0.18 <= found.cancelled_share < 0.25
    assert found.cancelled <= found.cancellations
    assert found.sent == found.screened + found.cancelled + found.expired + found.refused > 50
    written = json.loads(json.dumps(report({"commit": "0"}, [1.0], PLAN, found)))
    assert written["holds"]
    assert written["cancelled_share"] == found.cancelled_share
    assert {"about", "capacities", "rate", "slope_mb_per_h", "sent"} < written.keys()


def test_a_lost_request_fails(engine: Engine) -> None:
    """Requests that are never answered are counted as lost, and one is enough to fail."""
    plan = Plan(1.5, 100.0, 0, sample_s=0.02, patience_s=0.5, flat_mb_per_h=PLAN.flat_mb_per_h)
    leaky = Leaky(engine, forgets=20)
    found = soak(leaky, IMAGES, plan)
    assert found.lost == leaky.count // 20 > 0
    assert not found.holds


def test_memory_that_grows_fails(engine: Engine) -> None:
    """What keeps memory of each request fails, though every request is answered."""
    leaky = Leaky(engine, keeps_bytes=2 * _MB)  # 200 MB a second, and a busy machine lets fewer requests through
    found = soak(leaky, IMAGES, PLAN)
    assert found.lost == 0
    assert found.slope_mb_per_h > PLAN.flat_mb_per_h
    assert not found.holds


def test_too_few_cancellations_fail(engine: Engine) -> None:
    """A run whose cancellations all came too late has not shown what it was for."""
    found = soak(Leaky(engine, waits=True), IMAGES, Plan(1.5, 100.0, 0, sample_s=0.02, flat_mb_per_h=72_000))
    assert found.lost == found.cancelled == 0
    assert found.cancellations > 0
    assert not found.holds


def test_main(lenet: Subject, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The command finds the engine's capacity, soaks it, and ends with 0 if and only if what it writes says it held."""
    monkeypatch.setattr(data, "load_mnist", lambda *_: None)
    monkeypatch.setattr(command, "subject", lambda *_, **__: lenet)
    monkeypatch.setattr(command, "_READING_S", 0.1)
    monkeypatch.setattr(command, "Plan", partial(Plan, sample_s=0.02, patience_s=20.0))
    with pytest.raises(typer.Exit) as ended:
        command.main(tmp_path, minutes=1 / 60, out=tmp_path)
    written = json.loads((tmp_path / "soak.json").read_text())
    assert (ended.value.exit_code == 0) == written["holds"]
    assert written["lost"] == 0 < written["sent"]
