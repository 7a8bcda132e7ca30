"""From a profile's specs to detectors."""

from __future__ import annotations

from collections.abc import Iterable

from guard.profile.spec import ConfidenceSpec, DetectorSpec, NetworkSpec, SensitivitySpec, SmoothingSpec, SqueezingSpec
from guard.screen.confidence import ConfidenceDetector
from guard.screen.network import NetworkDetector
from guard.screen.sensitivity import SensitivityDetector
from guard.screen.smoothing import SmoothingDetector
from guard.screen.squeezing import SqueezingDetector
from guard.screen.trial import Detector


def build_detectors(specs: Iterable[DetectorSpec]) -> tuple[Detector, ...]:
    """One detector a spec, in order."""
    return tuple(_build(spec) for spec in specs)


def _build(spec: DetectorSpec) -> Detector:
    match spec:
        case ConfidenceSpec():
            return ConfidenceDetector(spec)
        case SensitivitySpec():
            return SensitivityDetector(spec)
        case SqueezingSpec():
            return SqueezingDetector(spec)
        case SmoothingSpec():
            return SmoothingDetector(spec)
        case NetworkSpec():
            return NetworkDetector(spec)
