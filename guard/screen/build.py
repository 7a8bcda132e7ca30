"""From a profile's specs to detectors."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

from guard.profile.spec import (
    ConfidenceSpec,
    DetectorSpec,
    NetworkSpec,
    OcclusionSpec,
    SensitivitySpec,
    SmoothingSpec,
    SqueezingSpec,
)
from guard.screen.auxiliary import AuxiliaryTrial
from guard.screen.confidence import ConfidenceTrial
from guard.screen.network import NetworkTrial
from guard.screen.occlusion import OcclusionTrial, masks_of
from guard.screen.sensitivity import SensitivityTrial
from guard.screen.smoothing import SmoothingTrial
from guard.screen.squeezing import SqueezingTrial, squeezed
from guard.screen.trial import Detector, SequentialTrial, Trial

_STAGES: dict[type[DetectorSpec], int] = {SensitivitySpec: 1, OcclusionSpec: 1, SmoothingSpec: 2}


@dataclass(frozen=True, slots=True)
class _Configured:
    """A detector: its name, its stage, and what starts it on an input."""

    name: str
    stage: int
    open: Callable[[], Trial | SequentialTrial]


def build_detectors(specs: Iterable[DetectorSpec]) -> tuple[Detector, ...]:
    """One detector a spec, in order."""
    return tuple(_Configured(spec.name, _STAGES.get(type(spec), 0), _opener(spec)) for spec in specs)


def _opener(spec: DetectorSpec) -> Callable[[], Trial | SequentialTrial]:
    match spec:
        case ConfidenceSpec():
            return partial(ConfidenceTrial, spec.name)
        case SensitivitySpec():
            return partial(SensitivityTrial, spec)
        case SqueezingSpec():
            return partial(SqueezingTrial, spec.name, squeezed(spec))
        case OcclusionSpec():
            return partial(OcclusionTrial, spec, masks_of(spec))
        case SmoothingSpec():
            return partial(SmoothingTrial, spec)
        case NetworkSpec():
            return partial(AuxiliaryTrial if spec.on == "auxiliary" else NetworkTrial, spec.name)
