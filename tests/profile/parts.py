"""Profiles for tests, small and whole."""

from __future__ import annotations

import hashlib

import numpy as np

from guard.profile import spec
from guard.profile.profile import BenignScores, Canaries, Profile, Provenance
from guard.values import Float64Array, IntArray, ModelInfo, OutputKind

NETWORK = b"the bytes of a detector network"
INFO = ModelInfo("digits", "input", "logits", "FP32", (2,), 2, (0.0, 10.0), OutputKind.LOGITS, "ab12")
NETWORK_SPEC = spec.NetworkSpec(sha256=hashlib.sha256(NETWORK).hexdigest())
JOINT = spec.Joint(weights={"confidence": (0.5, 0.25), "network": (1.5, 0.0)})
SMOOTHING_SPEC = spec.SmoothingSpec(sigma=0.5, radius=0.25)


def benign(labels: IntArray | list[int], **scores: Float64Array | list[float]) -> BenignScores:
    """Benign scores by detector."""
    by_detector = {name: np.asarray(values, dtype=np.float64) for name, values in scores.items()}
    return BenignScores(np.asarray(labels, dtype=np.int64), by_detector)


def a_profile(
    detectors: tuple[spec.DetectorSpec, ...],
    reference: BenignScores,
    calibration: BenignScores,
    *,
    info: ModelInfo = INFO,
) -> Profile:
    """A profile of these detectors and scores."""
    return Profile(
        model=info,
        detectors=detectors,
        reference=reference,
        calibration=calibration,
        canaries=Canaries(np.ones((3, *info.shape), np.float32), np.ones((3, info.classes), np.float32)),
        provenance=Provenance("2025-01-02T03:04:05+00:00", "0.1", 7, {"fit": 5}, {"numpy": "2.4"}, {"rate": 0.1}),
        files={NETWORK_SPEC.file: NETWORK} if NETWORK_SPEC in detectors else {},
        joint=JOINT if {each.name for each in detectors} >= set(JOINT.weights) else None,
        conditions=(spec.Condition(kind="jpeg", most=70), spec.Condition(kind="noise", most=4)),
        sample_hashes=np.array([3, 2**64 - 1], np.uint64),
    )
