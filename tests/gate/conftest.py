"""Builds gates, and stops their engines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from guard.config import ModelPolicy, Unlisted
from guard.decide.drift import Drift
from guard.decide.judge import Judge
from guard.decide.universal import UniversalWatch
from guard.decode.preprocessing import ImageReader
from guard.gate import Gate, GuardedModel
from guard.listed import Listed
from guard.observe.metrics import Metrics
from guard.queries.watch import QueryWatch
from guard.screen.build import build_detectors
from guard.screen.engine import Engine
from guard.screen.trial import MODEL
from guard.values import Mode
from tests.gate.parts import PROFILE, Model, Setup, Start
from tests.profile.parts import INFO


@pytest.fixture
def start() -> Iterator[Start]:
    """Builds a gate: `start(queue=.., live=.., unverified=.., unlisted=.., running=.., **policy)`."""
    setups: list[Setup] = []

    def build(
        *,
        queue: int = 256,
        live: int = 16,
        unverified: str | None = None,
        unlisted: Unlisted = Unlisted.DENY,
        running: bool = True,
        watch: QueryWatch | None = None,
        drift: Drift | None = None,
        universal: UniversalWatch | None = None,
        images: ImageReader | None = None,
        free: tuple[int, ...] = (),
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
        chosen = {"profile": "unused", "mode": Mode.ENFORCE, "screening_budget_s": 60.0} | policy
        settings = ModelPolicy.model_validate(chosen)
        judge = Judge(PROFILE, false_positive_rate=0.05)
        guarded = GuardedModel(
            replace(INFO, free=free),
            settings,
            judge,
            engine,
            lambda _version: unverified,
            watch,
            drift,
            universal,
            images,
        )
        metrics.watch_model(
            model="digits",
            detectors=("confidence", "queries", "universal"),
            mode=settings.mode,
            fingerprint=INFO.fingerprint,
            false_positive_rate=0.05,
            calibration_samples=200,
            created="",
        )
        if running:
            engine.start()
        gate = Gate(Listed({"digits": guarded}, unlisted), max_batch_items=16, metrics=metrics)
        setups.append(Setup(gate, model, engine, metrics))
        return setups[-1]

    yield build
    for setup in setups:
        setup.model.open.set()
        setup.engine.stop()
