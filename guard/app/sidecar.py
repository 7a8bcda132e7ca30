"""Guard as one object: what the settings ask for, put together, started and stopped."""

from __future__ import annotations

import asyncio
import gc
import math
import secrets
import sys
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import numpy as np
import structlog

from guard.app.models import LoadedModel, load_models
from guard.app.sharing import open_store
from guard.config import ModelPolicy, Queries, Settings
from guard.decide import universal
from guard.decide.drift import Drift
from guard.decide.universal import UniversalWatch
from guard.environment import check_onnxruntime
from guard.errors import ConfigError
from guard.gate import Gate, GuardedModel
from guard.model.backend import Backend
from guard.model.sweep import best_batch
from guard.model.upstream import UpstreamBackend
from guard.observe.admin import AdminServer
from guard.observe.metrics import Metrics
from guard.profile.profile import Profile
from guard.queries import watch
from guard.queries.fingerprint import Fingerprinter, is_image
from guard.queries.memory import QueryMemory, Radii
from guard.queries.record import Seal
from guard.queries.watch import QueryWatch
from guard.screen.build import build_detectors
from guard.screen.engine import Engine
from guard.verify import Verifier
from guard.wire.server import GuardServer

SWITCH_S: Final = 5e-4
"""How long a thread may keep the interpreter from the event loop: Python's own 5 ms would show in its latency."""
_log = structlog.get_logger(__name__)


class Sidecar:
    """Guard, ready to start. Everything that can be wrong on this side is found here, before a port is opened.

    `replicas` gives, by model name, replicas that no policy file can name, such as a `TorchBackend`; they then answer
    in place of the policy's, and stay the caller's to close. Stop a sidecar even if it was never started.

    Raises:
        GuardError: a profile, a model file, a rate or the installation is wrong; the message says what to do.
    """

    def __init__(self, settings: Settings, replicas: Mapping[str, Backend] | None = None) -> None:
        check_onnxruntime()
        self.metrics = Metrics()
        self._settings = settings
        self._closing = AsyncExitStack()
        secret = _noise_secret(settings.noise_secret_file)
        self._store = open_store(settings, self.metrics)
        self._verifiers: dict[str, Verifier] = {}
        self._engines: dict[str, Engine] = {}
        loaded = load_models(settings, replicas or {})
        gate = Gate(
            {name: self._guard(name, model, secret) for name, model in loaded.items()},
            unlisted=settings.unlisted_models,
            max_batch_items=settings.limits.max_batch_items,
            metrics=self.metrics,
        )
        self._admin = AdminServer(
            settings.listen.admin_address, registry=self.metrics.registry, live=self._live, ready=self.unready
        )
        self._server = GuardServer(screener=gate, settings=settings, metrics=self.metrics, ready=self._ready)
        self.grpc_port = 0
        self.admin_port = 0

    async def start(self) -> None:
        """Start serving. It does not wait for the upstream. While it serves, threads give the interpreter up sooner."""
        self._closing.callback(sys.setswitchinterval, sys.getswitchinterval())
        sys.setswitchinterval(min(sys.getswitchinterval(), SWITCH_S))
        try:
            for engine in self._engines.values():
                engine.start()
                self._closing.callback(engine.stop)
            for verifier in self._verifiers.values():
                verifier.start()
            if self._store is not None:
                self._store.start()
                self._closing.callback(self._store.close)
            self.admin_port = self._admin.start()
            self._closing.callback(self._admin.stop)
            self.grpc_port = await self._server.start()
        except BaseException:
            await self._closing.aclose()
            raise
        _log.info("guard serves", grpc_port=self.grpc_port, admin_port=self.admin_port, models=list(self._engines))

    async def stop(self, grace_s: float = 5.0) -> None:
        """Stop taking requests, give the running ones `grace_s` seconds, and stop."""
        await self._server.stop(grace_s)
        await self._closing.aclose()

    def unready(self) -> list[str]:
        """Why Guard is not ready; empty when it is."""
        reasons = [f"{name}: the screening engine is not running" for name, e in self._engines.items() if not e.alive]
        reasons += [f"{name}: {v.problem}" for name, v in self._verifiers.items() if v.problem is not None]
        return reasons

    def _live(self) -> bool:
        """A dead engine thread can't be brought back from inside, so the process should be."""
        return all(engine.alive for engine in self._engines.values())

    async def _ready(self) -> bool:
        return not self.unready()

    def _guard(self, name: str, model: LoadedModel, secret: bytes) -> GuardedModel:
        limits = self._settings.limits
        for backend in model.backends.values():
            if not isinstance(backend, UpstreamBackend):  # which other clients wait for
                backend.preferred_batch = best_batch(backend).batch
        engine = Engine(
            detectors=build_detectors(model.detectors),
            backends=model.backends,
            secret=secret,
            decided=model.judge.certain,
            max_queued_items=limits.max_queued_items,
            max_live_items=limits.max_live_items,
        )
        verifier = Verifier(self._settings.upstream.address, model.info, model.profile.canaries)
        self._closing.callback(model.close)
        self._closing.push_async_callback(verifier.stop)
        self._engines[name] = engine
        self._verifiers[name] = verifier
        query_watch = self._remember(model, secret)
        self._watch(name, model.policy, model.profile, engine)
        return GuardedModel(
            model.info,
            model.policy,
            model.judge,
            engine,
            verifier.unverified,
            query_watch,
            self._look_for_drift(name, model),
            self._compare_flagged(model),
        )

    def _look_for_drift(self, name: str, model: LoadedModel) -> Drift | None:
        if model.policy.drift_false_alarm == 0:
            return None
        drift = Drift(
            n=len(model.profile.calibration),
            threshold=model.judge.threshold,
            false_alarm=model.policy.drift_false_alarm,
            rng=np.random.default_rng(),
        )
        self.metrics.watch_drift(name, suspected=lambda: drift.suspected, evidence=drift.log_martingale)
        return drift

    def _compare_flagged(self, model: LoadedModel) -> UniversalWatch | None:
        """What compares flagged items, None where they are no images, or too small ones."""
        info = model.info
        if not is_image(info.shape) or math.prod(info.shape) < universal.LEAST_VALUES:
            return None
        low, high = info.bounds
        universal_watch = UniversalWatch(info.shape, high - low, model.profile.canaries.inputs)
        self._closing.callback(universal_watch.close)
        return universal_watch

    def _remember(self, model: LoadedModel, secret: bytes) -> QueryWatch | None:
        """The memory of a model's queries, None where the policy wants none or the profile knows no distances."""
        policy, info, radii = model.policy, model.info, model.profile.query_radii
        if policy.queries is Queries.SKIP or radii is None:
            return None
        low, high = info.bounds
        capacity = self._settings.limits.max_remembered_queries
        fingerprinter = Fingerprinter(secret, info.name, info.shape, high - low)
        query_watch = QueryWatch(
            fingerprinter,
            QueryMemory(capacity=capacity, keep_s=policy.query_memory_s, radii=Radii(radii.client, radii.everyone)),
            limit=policy.query_limit,
        )
        self._closing.callback(query_watch.close)
        self.metrics.watch_memory(info.name, lambda: len(query_watch))
        if (store := self._store) is not None:
            seal = Seal(fingerprinter.key(info.fingerprint))
            store.share(query_watch, seal, model=info.name, capacity=capacity, keep_s=policy.query_memory_s)
            self.metrics.watch_sharing(info.name, lambda: store.answers)
        return query_watch

    def _watch(self, name: str, policy: ModelPolicy, profile: Profile, engine: Engine) -> None:
        self.metrics.watch_model(
            model=name,
            detectors=[*(spec.name for spec in profile.detectors), watch.NAME, universal.NAME],
            mode=policy.mode,
            fingerprint=profile.model.fingerprint,
            false_positive_rate=policy.false_positive_rate,
            calibration_samples=len(profile.calibration),
            created=profile.provenance.created,
        )
        self.metrics.watch_queue(name, lambda: engine.depth)


def _noise_secret(path: Path | None) -> bytes:
    if path is None:
        return secrets.token_bytes(32)
    try:
        return path.read_bytes()
    except OSError as exc:
        raise ConfigError(
            f"noise_secret_file {path} can't be read ({exc.strerror}); correct it or leave it out"
        ) from exc


async def serve(settings: Settings, stop: asyncio.Event, started: Callable[[Sidecar], None]) -> None:
    """Run a sidecar until `stop` is set; `started` is called when its ports are open."""
    sidecar = Sidecar(settings)
    await sidecar.start()
    gc.collect()
    gc.freeze()  # what was loaded so far stays: a collection that walks through it would hold up requests
    try:
        started(sidecar)
        await stop.wait()
    finally:
        await sidecar.stop()
