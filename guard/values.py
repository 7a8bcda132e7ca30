"""The frozen values that stages hand to each other, and the closed sets they draw from.

Nothing here decides anything, and nothing here imports from guard, so every module may import this one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Float32Array: TypeAlias = npt.NDArray[np.float32]
Float64Array: TypeAlias = npt.NDArray[np.float64]
IntArray: TypeAlias = npt.NDArray[np.int64]
UInt64Array: TypeAlias = npt.NDArray[np.uint64]


class Mode(StrEnum):
    """What a model's policy lets Guard do about a verdict."""

    SHADOW = "shadow"
    FLAG = "flag"
    ENFORCE = "enforce"


class Verdict(StrEnum):
    """What Guard believes about an input or a request."""

    CLEAN = "clean"
    ADVERSARIAL = "adversarial"
    ABSTAIN = "abstain"
    UNSCREENED = "unscreened"


class Action(StrEnum):
    """What is done with a request. Ordered from mild to strict by `severity`."""

    FORWARD = "forward"
    FLAG = "flag"
    REJECT = "reject"

    @property
    def severity(self) -> int:
        """Position in forward < flag < reject."""
        return (Action.FORWARD, Action.FLAG, Action.REJECT).index(self)


class Course(StrEnum):
    """When the upstream gets a request: once it is judged, while it is judged, or with no regard to it."""

    BEFORE = "before"
    BESIDE = "beside"
    BEHIND = "behind"


class Sender(StrEnum):
    """For whom the guarded server was asked to infer. A closed set: it labels a metric."""

    CALL = "call"
    STREAM = "stream"
    GUARD = "guard"
    CARRIED = "carried"


class InferenceOutcome(StrEnum):
    """What is known of an inference that the guarded server was asked for. A closed set: it labels a metric.

    `failed` is one that certainly did not run: it was refused before. One that is `unknown` may have run.
    """

    ANSWERED = "answered"
    FAILED = "failed"
    UNKNOWN = "unknown"

    @classmethod
    def of(cls, code: str) -> InferenceOutcome:
        """What the name of a gRPC status code tells of the call that it ended."""
        return _OUTCOMES.get(code, cls.UNKNOWN)

    @classmethod
    def of_streamed(cls, error: str, model: str) -> InferenceOutcome:
        """What an answer on a stream tells, by its error and the model that it names, if any.

        Triton names the model once a request has got as far as one, which may count it whatever it says.
        """
        if not error:
            return cls.ANSWERED
        return cls.UNKNOWN if model else cls.FAILED


# What a server says of a request that it does not take. Not INTERNAL: it is what Triton's Python backend makes of an
# error in a model, and that Triton counts as a success. Nor RESOURCE_EXHAUSTED: gRPC's own client says so of an answer
# that is too large for it, which the server has computed.
_OUTCOMES = {"OK": InferenceOutcome.ANSWERED} | dict.fromkeys(
    (
        "ALREADY_EXISTS",
        "FAILED_PRECONDITION",
        "INVALID_ARGUMENT",
        "NOT_FOUND",
        "OUT_OF_RANGE",
        "PERMISSION_DENIED",
        "UNAUTHENTICATED",
        "UNIMPLEMENTED",
    ),
    InferenceOutcome.FAILED,
)


class UnscreenedReason(StrEnum):
    """Why nobody looked. A closed set: it labels a metric."""

    DEADLINE = "deadline"
    CLIENT_DEADLINE = "client_deadline"
    OVERLOAD = "overload"
    FAULT = "fault"
    UNLISTED_MODEL = "unlisted_model"
    UNVERIFIED = "unverified"
    INVALID_INPUT = "invalid_input"
    OTHER_SHAPE = "other_shape"


class FaultReason(StrEnum):
    """Why a detector could not look. A closed set: it labels a metric."""

    BACKEND = "backend"
    NON_FINITE_OUTPUT = "non_finite_output"
    DETECTOR = "detector"
    DEADLINE = "deadline"


class Layout(StrEnum):
    """Where height, width and channels of an input are, without the batch dimension; none where it is no image."""

    HW = "hw"
    CHW = "chw"
    HWC = "hwc"
    NONE = "none"


class Reloaded(StrEnum):
    """What became of a policy that was read again. A closed set: it labels a metric."""

    SWAPPED = "swapped"
    UNCHANGED = "unchanged"
    REFUSED = "refused"


class DriftScope(StrEnum):
    """Whose traffic is no longer like the calibration data. A closed set: it labels a metric."""

    ONE_CLIENT = "one_client"
    SEVERAL_CLIENTS = "several_clients"


class DriftDirection(StrEnum):
    """Whether drifted scores are more extreme than those of the calibration data, less, or more like each other."""

    MORE_EXTREME = "more_extreme"
    LESS_EXTREME = "less_extreme"
    MORE_ALIKE = "more_alike"


class OutputKind(StrEnum):
    """What the guarded model's output tensor holds."""

    LOGITS = "logits"
    PROBABILITIES = "probabilities"


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What Guard knows of a guarded model.

    `shape` is one input without the batch dimension; `bounds` are the least and largest value of benign inputs;
    `batched` says whether the model takes a leading batch dimension, and `max_batch` how many items at once (None:
    any number); `fingerprint` is a hex SHA-256 that changes when the model does. Without a `layout` the shape tells.
    `free` are the axes of `shape` along which the model takes any size, not only what it was calibrated with.
    """

    name: str
    input_name: str
    output_name: str
    datatype: str
    shape: tuple[int, ...]
    classes: int
    bounds: tuple[float, float]
    output_kind: OutputKind
    fingerprint: str
    batched: bool = True
    max_batch: int | None = None
    layout: Layout | None = None
    free: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class WireTensor:
    """One request input as it arrived: `raw` little-endian bytes as a view on the message, or `typed` values.

    Exactly one of the two is set. `raw` of a BYTES tensor is length-prefixed, as the v2 protocol says.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    raw: memoryview | None = None
    typed: npt.NDArray[np.generic] | None = None


ARRAYS = "np"
"""The content type by which MLServer, too, takes tensors for what they are."""


@dataclass(frozen=True, slots=True)
class InferRequest:
    """The part of a v2 inference request that screening reads.

    `content_type` is how it asks the server to decode its inputs; None where it does not.
    """

    model_name: str
    model_version: str
    request_id: str
    inputs: tuple[WireTensor, ...]
    content_type: str | None = None


@dataclass(frozen=True, slots=True)
class Certificate:
    """A guarantee about a label, never a suspicion.

    Within `radius` in the L2 norm of the input (units of the model's input space) the smoothed classifier keeps
    `label`, with probability at least 1 - `alpha` over the `n` draws of Gaussian noise of deviation `sigma`
    (Cohen et al., 2019). It says nothing about an L-inf ball of the same size.
    """

    label: int
    radius: float
    sigma: float
    n: int
    alpha: float
    norm: str = "l2"


@dataclass(frozen=True, slots=True)
class Occlusion:
    """What covering windows of an image showed.

    `heat` is how much of the label's margin each window holds beyond a typical one, row by row of their grid, in
    logits; windows overlap, and begin at `tops` and `lefts`. `hottest` is the one that holds most, as (top, left,
    height, width) in pixels, and all are of its size. `recovered` is the label by double masking (Xiang et al., 2022).
    With `certified_px`, no square of that many pixels a side, wherever it is and whatever is in it, has changed or
    could change the recovered label.
    """

    heat: tuple[tuple[float, ...], ...]
    hottest: tuple[int, int, int, int]
    tops: tuple[int, ...]
    lefts: tuple[int, ...]
    recovered: int | None = None
    certified_px: int | None = None


@dataclass(frozen=True, slots=True)
class Evidence:
    """A detector looked, and scored what it saw.

    `p_value` is None until the score was calibrated; it is by a fit to that many benign `samples`. `share` is how much
    of the verdict on a flagged item is this detector's; those of all detectors are one together.
    """

    detector: str
    score: float
    evaluations: int
    p_value: float | None = None
    details: Mapping[str, float] = field(default_factory=dict)
    duration_s: float = 0.0
    occlusion: Occlusion | None = None
    samples: int = 0
    share: float | None = None


@dataclass(frozen=True, slots=True)
class Certified:
    """A smoothing trial proved its radius. Guarantees never enter the p-value."""

    detector: str
    certificate: Certificate
    evaluations: int
    duration_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Abstention:
    """A detector looked, and can't tell."""

    detector: str
    evaluations: int
    why: str
    duration_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Fault:
    """A detector could not look."""

    detector: str
    reason: FaultReason
    evaluations: int = 0
    duration_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Spared:
    """A detector was not asked: the verdict was certain without it."""

    detector: str
    evaluations: int = 0
    duration_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Probing:
    """How many distinct near-duplicates of an item were sent before: by its client, and by all clients.

    It is about behaviour and not about chance, so there is no p-value, and it never enters one. `condemns`: it alone
    made the item adversarial. `group` names those that resemble each other, "" where an item says nothing.
    """

    detector: str
    of_client: int
    of_everyone: int
    suspicious: bool
    condemns: bool = False
    group: str = field(default="", compare=False)
    evaluations: int = 0
    duration_s: float = 0.0


@dataclass(frozen=True, slots=True)
class SharedPerturbation:
    """With how many flagged items of other content an item that is flagged shares its perturbation, of how many.

    It is found after the verdict, which it does not change.
    """

    detector: str
    shared_with: int
    compared_with: int
    evaluations: int = 0
    duration_s: float = 0.0


Finding: TypeAlias = Evidence | Certified | Abstention | Fault | Spared | Probing | SharedPerturbation


@dataclass(frozen=True, slots=True)
class Screening:
    """All that was found about one item: one finding for each configured detector.

    `label` is the model's own label of the item, None if the model could not be asked. `spent` counts the
    evaluations of the guarded model, each charged once, to the detector that asked for it first.
    """

    label: int | None
    findings: tuple[Finding, ...]
    spent: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Together:
    """What detectors say together of a flagged item, by the weights that calibration learnt.

    `p_value` is by a fit to that many benign `samples`. `share` is how much of the verdict is by it; the detectors'
    shares include that.
    """

    p_value: float
    samples: int
    share: float


@dataclass(frozen=True, slots=True)
class ItemDecision:
    """The verdict on one item of a batch. `ties` counts the calibration scores that are the same as the item's."""

    verdict: Verdict
    p_value: float | None
    findings: tuple[Finding, ...]
    reason: UnscreenedReason | None = None
    ties: int = 0
    together: Together | None = None


@dataclass(frozen=True, slots=True)
class Provenance:
    """By what a request was judged, for whoever asks later; all is empty where its model is not guarded.

    `policy` and `profile` are hashes, `version` is the one of the model that was asked for, or else recognised,
    `detectors` says by name which version of each looked, and the rest is how the model's input reads: `bounds` and
    `layout` are those of one item of `shape`.
    """

    policy: str = ""
    profile: str = ""
    fingerprint: str = ""
    version: str = ""
    detectors: Mapping[str, str] = field(default_factory=dict)
    input_name: str = ""
    shape: tuple[int, ...] = ()
    layout: str = ""
    bounds: tuple[float, float] = (0.0, 1.0)


NOT_GUARDED = Provenance()


@dataclass(frozen=True, slots=True)
class DriftChange:
    """Drift is suspected from now on, of more or fewer clients than before; of none where `scope` is None.

    `log_martingale` is the evidence and `items` what it rests on.
    """

    scope: DriftScope | None
    direction: DriftDirection
    log_martingale: float
    items: int


@dataclass(frozen=True, slots=True)
class Decision:
    """The verdict on a request (belief), what the policy wants (wish) and what is done in this mode (deed).

    `model` is the name that the policy has for it.
    """

    id: str
    model: str
    mode: Mode
    verdict: Verdict
    p_value: float | None
    intended: Action
    action: Action
    items: tuple[ItemDecision, ...]
    reason: UnscreenedReason | None = None
    spent: Mapping[str, int] = field(default_factory=dict)
    approximate: bool = False

    @property
    def culprits(self) -> tuple[int, ...]:
        """Indices of the items that share the request's verdict."""
        return tuple(i for i, item in enumerate(self.items) if item.verdict is self.verdict)
