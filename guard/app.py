"""The composition root: settings to objects to a running server."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import structlog

from guard.config import Device, ModelPolicy, Replica, Settings
from guard.decide.judge import Judge
from guard.environment import check_onnxruntime
from guard.errors import BackendError, ConfigError, ProfileMismatch, RateUnsupported
from guard.gate import Gate, GuardedModel
from guard.model.backend import Backend
from guard.model.onnx import OnnxBackend, network_backend
from guard.model.upstream import UpstreamBackend
from guard.observe.admin import AdminServer
from guard.observe.metrics import Metrics
from guard.profile import store
from guard.profile.profile import Profile
from guard.profile.spec import NetworkSpec, SmoothingSpec
from guard.screen.build import build_detectors
from guard.screen.engine import Engine
from guard.screen.trial import MODEL, NETWORK
from guard.verify import Verifier
from guard.wire.server import GuardServer

_PROVIDERS = {
    Device.CPU: ("CPUExecutionProvider",),
    Device.CUDA: ("CUDAExecutionProvider", "CPUExecutionProvider"),
}
_log = structlog.get_logger(__name__)


class Sidecar:
    """Guard, ready to start. Everything that can be wrong on this side is found here, before a port is opened.

    `replicas` gives, by model name, replicas that no policy file can name, such as a `TorchBackend`; they then answer
    in place of the policy's.

    Raises:
        GuardError: a profile, a model file, a rate or the installation is wrong; the message says what to do.
    """

    def __init__(self, settings: Settings, replicas: Mapping[str, Backend] | None = None) -> None:
        check_onnxruntime()
        self._replicas = dict(replicas or {})
        self.metrics = Metrics()
        self._settings = settings
        self._closing = AsyncExitStack()
        secret = _noise_secret(settings.noise_secret_file)
        self._verifiers: dict[str, Verifier] = {}
        self._engines: dict[str, Engine] = {}
        models: dict[str, GuardedModel] = {}
        for name, policy in settings.models.items():
            models[name] = self._guard(name, policy, secret)
        gate = Gate(
            models,
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
        """Start serving. It does not wait for the upstream."""
        try:
            for engine in self._engines.values():
                engine.start()
                self._closing.callback(engine.stop)
            for verifier in self._verifiers.values():
                verifier.start()
                self._closing.push_async_callback(verifier.stop)
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

    def _guard(self, name: str, policy: ModelPolicy, secret: bytes) -> GuardedModel:
        profile = store.load(policy.profile)
        if policy.require_certificate and not any(isinstance(spec, SmoothingSpec) for spec in profile.detectors):
            raise ConfigError(
                f"model {name!r}: `require_certificate` needs a profile with a smoothing detector, and this one has "
                "none; calibrate again, or leave it out"
            )
        try:
            judge = Judge(
                profile,
                false_positive_rate=policy.false_positive_rate,
                confidence=policy.false_positive_confidence,
                require_certificate=policy.require_certificate,
            )
        except RateUnsupported as exc:
            raise RateUnsupported(f"model {name!r}: {exc}") from exc
        served = replace(profile.model, name=name)
        backend = self._replica(name, policy, profile)
        backends: dict[str, Backend] = {MODEL: backend}
        for spec in profile.detectors:
            if isinstance(spec, NetworkSpec):
                backends[NETWORK] = network_backend(profile.network_bytes(spec), profile.model)
        limits = self._settings.limits
        engine = Engine(
            detectors=build_detectors(profile.detectors),
            backends=backends,
            secret=secret,
            max_queued_items=limits.max_queued_items,
            max_live_items=limits.max_live_items,
        )
        for each in backends.values():
            self._close_later(each.close)
        self._engines[name] = engine
        verifier = Verifier(self._settings.upstream.address, served, profile.canaries)
        self._verifiers[name] = verifier
        self._watch(name, policy, profile, engine)
        return GuardedModel(served, policy, judge, engine, verifier.passed)

    def _replica(self, name: str, policy: ModelPolicy, profile: Profile) -> Backend:
        if name in self._replicas:
            return _same_model(name, self._replicas[name], profile)
        if policy.replica is Replica.UPSTREAM:
            return UpstreamBackend(self._settings.upstream.address, replace(profile.model, name=name))
        return _onnx_replica(name, policy, profile)

    def _watch(self, name: str, policy: ModelPolicy, profile: Profile, engine: Engine) -> None:
        self.metrics.watch_model(
            model=name,
            detectors=[spec.name for spec in profile.detectors],
            mode=policy.mode,
            fingerprint=profile.model.fingerprint,
            false_positive_rate=policy.false_positive_rate,
            calibration_samples=len(profile.calibration),
            created=profile.provenance.created,
        )
        self.metrics.watch_queue(name, lambda: engine.depth)

    def _close_later(self, close: Callable[[], None]) -> None:
        self._closing.callback(close)


def _onnx_replica(name: str, policy: ModelPolicy, profile: Profile) -> Backend:
    path = policy.model
    if path is None:
        raise ConfigError(f"model {name!r}: `replica: onnx` needs `model`, the ONNX file; or say `replica: upstream`")
    try:
        content = path.read_bytes()
    except OSError as exc:
        raise BackendError(
            f"model {name!r}: {path} can't be read ({exc.strerror}); correct `model` in the policy"
        ) from exc
    if hashlib.sha256(content).hexdigest() != profile.model.fingerprint:
        raise ProfileMismatch(
            f"model {name!r}: the profile was calibrated with another model than {path}; "
            "calibrate this one with `guard calibrate`, name the file that the profile belongs to, or, for a profile "
            "made with --upstream, say `replica: upstream`"
        )
    return OnnxBackend(content, profile.model, providers=_PROVIDERS[policy.device])


def _same_model(name: str, backend: Backend, profile: Profile) -> Backend:
    if backend.info.fingerprint != profile.model.fingerprint:
        raise ProfileMismatch(
            f"model {name!r}: the profile was calibrated with another model than the replica given; calibrate this one"
        )
    return backend


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
    try:
        started(sidecar)
        await stop.wait()
    finally:
        await sidecar.stop()
