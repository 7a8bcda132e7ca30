"""Parts of a model at work that need nothing but the model itself, or parts made before."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import structlog

from guard.app.models import LoadedModel
from guard.app.selftest import SelfTest
from guard.decide import universal
from guard.decide.drift import Drift
from guard.decide.universal import UniversalWatch
from guard.layout import is_image

_log = structlog.get_logger(__name__)


def _nothing() -> None:
    """What has no thread need not be started, nor closed."""


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """A part of a model at work, None where the policy has none: what it was made of, how it begins, how it ends."""

    made_of: tuple[object, ...]
    it: Any = None
    start: Callable[[], None] = _nothing
    close: Callable[[], None] = _nothing


def self_test(model: LoadedModel, made: Mapping[str, Part], made_of: tuple[object, ...]) -> Part:
    """What tests a model's detectors; none where the policy wants none or the profile keeps no attacks."""
    policy, inputs = model.policy, model.profile.known_attacks
    if policy.self_test_interval_s == 0:
        return Part(made_of)
    if inputs is None or not len(inputs):
        _log.warning("no self-test: the profile keeps no known attacks, so calibrate again", model=model.info.name)
        return Part(made_of)
    tester = SelfTest(
        model.info.name,
        inputs,
        engine=made["engine"].it,
        judge=model.judge,
        budget_s=policy.screening_budget_s,
        interval_s=policy.self_test_interval_s,
    )
    return Part(made_of, tester, tester.start, tester.close)


def drift(model: LoadedModel, made_of: tuple[object, ...]) -> Part:
    """What looks for drift; none where the policy wants none."""
    if model.policy.drift_false_alarm == 0:
        return Part(made_of)
    watch = Drift(
        n=len(model.profile.calibration),
        threshold=model.judge.threshold,
        false_alarm=model.policy.drift_false_alarm,
        rng=np.random.default_rng(),
    )
    return Part(made_of, watch)


def universal_watch(model: LoadedModel, made_of: tuple[object, ...]) -> Part:
    """What compares flagged items; none where they are no images, or too small ones."""
    info = model.info
    if not is_image(info.shape, info.layout) or math.prod(info.shape) < universal.LEAST_VALUES:
        return Part(made_of)
    low, high = info.bounds
    watch = UniversalWatch(info.shape, high - low, model.profile.canaries.inputs, info.layout)
    return Part(made_of, watch, close=watch.close)
