"""A model of the policy, loaded: its profile, its judge and its replicas; or all that is wrong with it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from guard.app.files import Stamp, stamps_of
from guard.channel import Link
from guard.config import Certify, Device, ModelPolicy, Queries, Replica, Settings, model_and_version
from guard.decide.judge import Judge
from guard.errors import BackendError, ConfigError, GuardError, ProfileMismatch, RateUnsupported, SeveralProblems
from guard.model.backend import Backend
from guard.model.onnx import OnnxBackend
from guard.model.upstream import UpstreamBackend
from guard.profile import store
from guard.profile.profile import Profile
from guard.profile.spec import DetectorSpec, SmoothingSpec
from guard.screen.backends import networks_of
from guard.screen.smoothing import at_radius
from guard.screen.trial import MODEL
from guard.values import ModelInfo

_PROVIDERS = {
    Device.CPU: ("CPUExecutionProvider",),
    Device.CUDA: ("CUDAExecutionProvider", "CPUExecutionProvider"),
}
_Made = TypeVar("_Made")


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong with a model, and the setting of its policy to look at."""

    setting: str
    error: GuardError


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """What guarding a model takes. `info` has the name that the policy has, which is not always the profile's.

    `detectors` are the profile's, as the policy has them; `backends` are by the name that trials ask for them, `opened`
    those that nobody else closes. `content` is a hash of the profile, which names the hash of the model; `stamps` are
    those of the files, taken before they were read.
    """

    policy: ModelPolicy
    profile: Profile
    info: ModelInfo
    judge: Judge
    detectors: tuple[DetectorSpec, ...]
    backends: Mapping[str, Backend]
    opened: tuple[Backend, ...]
    content: str
    stamps: tuple[Stamp, ...]

    def close(self) -> None:
        """Close what was opened for it."""
        for backend in self.opened:
            backend.close()


def load_models(settings: Settings, replicas: Mapping[str, Backend]) -> dict[str, LoadedModel]:
    """Load all models that the settings name, with `replicas` by their names; where one fails, none stays open.

    Raises:
        GuardError: the one problem that there is, or SeveralProblems.
    """
    loaded: dict[str, LoadedModel] = {}
    errors: list[GuardError] = []
    for name in settings.models:
        model = load_model(settings, name, replicas.get(name))
        if isinstance(model, LoadedModel):
            loaded[name] = model
        else:
            errors += [problem.error for problem in model]
    if errors:
        for each in loaded.values():
            each.close()
        raise errors[0] if len(errors) == 1 else SeveralProblems(errors)
    return loaded


def load_model(settings: Settings, name: str, given: Backend | None = None) -> LoadedModel | tuple[Problem, ...]:
    """Load one model, with the replica `given`, if any, in place of the policy's; or say all that is wrong with it."""
    policy, problems = settings.models[name], _Problems()
    stamps, content = stamps_of(policy), _content(policy)
    profile = problems.unless("profile", partial(store.load, policy.profile))
    if profile is None:
        problems.unless("model", partial(_model_file, name, policy))
        return tuple(problems.found)
    problems.unless("certificate", partial(_check_certificate, name, policy, profile))
    problems.unless("queries", partial(_check_queries, name, policy, profile))
    detectors = problems.unless("certified_radius", partial(_detectors, name, policy, profile))
    judge = problems.unless("false_positive_rate", partial(_judge, name, policy, profile))
    replica = problems.unless("model", partial(_replica, settings, name, profile, given))
    networks = problems.unless("profile", partial(_networks, profile, replica)) or {}
    opened = (*(() if given is not None or replica is None else (replica,)), *networks.values())
    if judge is None or replica is None or detectors is None or problems.found:
        for each in opened:
            each.close()
        return tuple(problems.found)
    return LoadedModel(
        policy,
        profile,
        replace(profile.model, name=name),
        judge,
        detectors,
        backends={MODEL: replica} | networks,
        opened=opened,
        content=content,
        stamps=stamps,
    )


def _content(policy: ModelPolicy) -> str:
    """The hash of the manifest, which holds those of all other files; "" if there is none, which `load` says."""
    try:
        return hashlib.sha256((policy.profile / store.MANIFEST).read_bytes()).hexdigest()
    except OSError:
        return ""


class _Problems:
    """Goes on after a problem, and keeps it."""

    def __init__(self) -> None:
        self.found: list[Problem] = []

    def unless(self, setting: str, make: Callable[[], _Made]) -> _Made | None:
        """What `make` makes; None, and a problem with `setting`, where it raises."""
        try:
            return make()
        except GuardError as exc:
            self.found.append(Problem(setting, exc))
            return None


def _check_certificate(name: str, policy: ModelPolicy, profile: Profile) -> None:
    certifies = any(isinstance(spec, SmoothingSpec) for spec in profile.detectors)
    if policy.certificate is not Certify.SKIP and not certifies:
        raise ConfigError(
            f"model {name!r}: `certificate: {policy.certificate}` needs a profile with a smoothing detector, and this "
            "one has none; calibrate again, or leave it out"
        )


def _check_queries(name: str, policy: ModelPolicy, profile: Profile) -> None:
    if policy.queries is Queries.REJECT and profile.query_radii is None:
        raise ConfigError(
            f"model {name!r}: `queries: reject` needs a profile that knows how far apart benign images are, and this "
            "one does not; calibrate again, or, where inputs are no images, write `queries: skip`"
        )


def _detectors(name: str, policy: ModelPolicy, profile: Profile) -> tuple[DetectorSpec, ...]:
    """The profile's detectors; a certificate where the policy asks for one, and of its radius."""
    if policy.certificate is Certify.SKIP:
        return tuple(spec for spec in profile.detectors if not isinstance(spec, SmoothingSpec))
    radius = policy.certified_radius
    if radius is None:
        return profile.detectors
    try:
        return tuple(at_radius(s, radius) if isinstance(s, SmoothingSpec) else s for s in profile.detectors)
    except ConfigError as exc:
        raise ConfigError(f"model {name!r}: {exc}") from exc


def _judge(name: str, policy: ModelPolicy, profile: Profile) -> Judge:
    try:
        return Judge(
            profile,
            false_positive_rate=policy.false_positive_rate,
            confidence=policy.false_positive_confidence,
            require_certificate=policy.certificate is Certify.REQUIRE,
        )
    except RateUnsupported as exc:
        raise RateUnsupported(f"model {name!r}: {exc}") from exc


def _networks(profile: Profile, replica: Backend | None) -> dict[str, Backend]:
    """The profile's detector networks, where an ONNX replica runs: inputs are uploaded once for all."""
    providers = replica.providers if isinstance(replica, OnnxBackend) else _PROVIDERS[Device.CPU]
    return networks_of(profile.detectors, profile.files, profile.model, providers)


def _replica(settings: Settings, name: str, profile: Profile, given: Backend | None) -> Backend:
    policy = settings.models[name]
    if given is not None:
        return _same_model(name, given, profile)
    content = _model_file(name, policy)
    if content is None and profile.preprocessing is not None:
        raise ConfigError(
            f"model {name!r}: the profile's model takes encoded images, of which there are no noisy copies, so "
            "`replica: upstream` can't screen it; name the ONNX file behind its preprocessing as `model`"
        )
    if content is None:
        model, version = model_and_version(name)
        return UpstreamBackend(Link(settings.upstream), replace(profile.model, name=model), asked_version=version)
    if hashlib.sha256(content).hexdigest() != profile.model.fingerprint:
        raise ProfileMismatch(
            f"model {name!r}: the profile was calibrated with another model than {policy.model}; "
            "calibrate this one with `guard calibrate`, name the file that the profile belongs to, or, for a profile "
            "made with --upstream, say `replica: upstream`"
        )
    if profile.replica is not None:
        content = profile.bytes_of(profile.replica)
    return OnnxBackend(content, profile.model, providers=_PROVIDERS[policy.device])


def _model_file(name: str, policy: ModelPolicy) -> bytes | None:
    """The ONNX file of the policy; None where the upstream itself answers."""
    if policy.replica is Replica.UPSTREAM:
        return None
    if policy.model is None:
        raise ConfigError(f"model {name!r}: `replica: onnx` needs `model`, the ONNX file; or say `replica: upstream`")
    try:
        return policy.model.read_bytes()
    except OSError as exc:
        raise BackendError(
            f"model {name!r}: {policy.model} can't be read ({exc.strerror}); correct `model` in the policy"
        ) from exc


def _same_model(name: str, backend: Backend, profile: Profile) -> Backend:
    if backend.info.fingerprint != profile.model.fingerprint:
        raise ProfileMismatch(
            f"model {name!r}: the profile was calibrated with another model than the replica given; calibrate this one"
        )
    return backend
