"""A profile: how a guarded model behaves on benign inputs, and how its detectors are set.

It keeps benign scores, not thresholds, so that the false-positive rate can change without calibrating again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from guard.profile.spec import (
    TWO_SIDED,
    Condition,
    DetectorSpec,
    Joint,
    NetworkSpec,
    Preprocessing,
    QueryRadii,
    ReducedReplica,
    SmoothingSpec,
)
from guard.values import Float32Array, Float64Array, IntArray, ModelInfo, UInt64Array


@dataclass(frozen=True, slots=True)
class BenignScores:
    """Scores of benign inputs, drawn through the whole pipeline, stopping rules included.

    `scores[d]` is (n,) per scoring detector, NaN where it abstained or failed; `labels` (n,) is the model's own label.
    `groups` (n,) says what was done to each: 0 nothing, others the place of the expected condition, from 1.
    """

    labels: IntArray
    scores: Mapping[str, Float64Array]
    groups: IntArray | None = None

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, slots=True)
class Canaries:
    """Inputs (n, *shape) with the logits (n, classes) of the calibrated model, to recognise it by its behaviour."""

    inputs: Float32Array
    logits: Float32Array
    encoded: tuple[bytes, ...] = ()
    """The same as encoded images, where the served model takes those."""


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a profile came from, so that a person can judge or repeat it."""

    created: str
    guard_version: str
    seed: int
    samples: Mapping[str, int]
    versions: Mapping[str, str]
    measured: Mapping[str, float] = field(default_factory=dict)
    caught_alone: Mapping[str, float] = field(default_factory=dict)
    """The share of the attacks made in calibration that each detector alone flags, with 5 % of benign inputs."""


@dataclass(frozen=True, slots=True)
class Profile:
    """The calibration artefact.

    `reference` places a detector's score among benign ones; `calibration`, drawn from other inputs, turns the
    combination of all of them into a conformal p-value. `files` holds the bytes of the profile's ONNX files by name.
    """

    model: ModelInfo
    detectors: tuple[DetectorSpec, ...]
    reference: BenignScores
    calibration: BenignScores
    canaries: Canaries
    provenance: Provenance
    files: Mapping[str, bytes] = field(default_factory=dict)
    replica: ReducedReplica | None = None
    """What was calibrated with in place of the model's own file."""
    conditions: tuple[Condition, ...] = ()
    """Harmless changes that benign inputs were calibrated under."""
    sample_hashes: UInt64Array = field(default_factory=lambda: np.zeros(0, np.uint64))
    """64 bits of each sample's hash, at 8 bits, by which an evaluation refuses samples of the calibration."""
    preprocessing: Preprocessing | None = None
    """How the served model's encoded images become the replica's inputs; None where it takes the same tensors."""
    joint: Joint | None = None
    """What detectors say together, as calibration learnt it; None where it made no attacks to learn from."""
    query_radii: QueryRadii | None = None
    """How near two inputs are that a query attack may have sent; None for inputs that can't be compared."""
    known_attacks: Float32Array | None = None
    """A few adversarial inputs (n, *shape) that its judge flags at any rate, for a running Guard to test itself with;
    None where calibration made no attacks."""

    @property
    def scoring(self) -> tuple[str, ...]:
        """Names of the detectors whose scores count as suspicion; a certificate never does."""
        return tuple(spec.name for spec in self.detectors if not isinstance(spec, SmoothingSpec))

    @property
    def two_sided(self) -> frozenset[str]:
        """Names of the detectors whose scores are evidence in both directions."""
        return frozenset(spec.name for spec in self.detectors if isinstance(spec, TWO_SIDED))

    def bytes_of(self, spec: NetworkSpec | ReducedReplica) -> bytes:
        """The ONNX file of a detector network or a replica."""
        return self.files[spec.file]
