"""How it stands with each model, as the metrics tell it, and with its engine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry

_NAMES = (
    "guard_policy_mode",
    "guard_profile_info",
    "guard_profile_calibration_samples",
    "guard_false_positive_rate_target",
    "guard_detector_info",
    "guard_drift_suspected",
    "guard_selftest_last_success_timestamp_seconds",
    "guard_policy_info",
    "guard_build_info",
    "guard_inflight_requests",
    "guard_upstream_unresponsive",
)


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """How much an engine has to do: items that wait, of `room` at most, and that it screens; seconds of work so far."""

    waiting: int
    room: int
    live: int
    busy_s: float
    alive: bool


Engines = Callable[[], Mapping[str, EngineLoad]]
"""The engines, by the names of their models."""


@dataclass(slots=True)
class ModelState:
    """What the metrics tell of a model. `self_test_s`: when its self-test succeeded last, 0 not yet, None: no test."""

    name: str
    mode: str = ""
    fingerprint: str = ""
    created: str = ""
    samples: int = 0
    target: float = 0.0
    detectors: list[str] = field(default_factory=list)
    drift: list[str] = field(default_factory=list)
    self_test_s: float | None = None


@dataclass(slots=True)
class State:
    """How it stands with Guard."""

    models: dict[str, ModelState]
    policy: str = ""
    version: str = ""
    inflight: int = 0
    upstream_silent: bool = False


def state_of(registry: CollectorRegistry, models: Iterable[str]) -> State:
    """How it stands with these models."""
    state = State({name: ModelState(name) for name in models})
    for family in registry.restricted_registry(_NAMES).collect():
        for sample in family.samples:
            model = state.models.get(sample.labels.get("model", ""))
            if model is not None:
                _note(model, sample.name, sample.labels, sample.value)
            else:
                _note_all(state, sample.name, sample.labels, sample.value)
    return state


def _note(model: ModelState, name: str, labels: Mapping[str, str], value: float) -> None:
    match name:
        case "guard_policy_mode" if value:
            model.mode = labels["mode"]
        case "guard_profile_info":
            model.fingerprint, model.created = labels["fingerprint"], labels["created"]
        case "guard_profile_calibration_samples":
            model.samples = int(value)
        case "guard_false_positive_rate_target":
            model.target = value
        case "guard_detector_info":
            model.detectors.append(labels["detector"])
        case "guard_drift_suspected" if value:
            model.drift.append(labels["scope"].replace("_", " "))
        case "guard_selftest_last_success_timestamp_seconds":
            model.self_test_s = value


def _note_all(state: State, name: str, labels: Mapping[str, str], value: float) -> None:
    match name:
        case "guard_policy_info":
            state.policy = labels["version"]
        case "guard_build_info":
            state.version = labels["version"]
        case "guard_inflight_requests":
            state.inflight = int(value)
        case "guard_upstream_unresponsive":
            state.upstream_silent = bool(value)
