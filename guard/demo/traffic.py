"""Traffic through Guard as a client sees it: a stock tritonclient, once direct and once through, interleaved."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from guard import stats
from guard.app import Sidecar
from guard.demo.stable import Noisy
from guard.errors import EnvironmentProblem, ScreeningError
from guard.offline.progress import Reporter
from guard.values import Float32Array, Float64Array, Verdict

MODEL = "digits"
TARGET_CAUGHT = 0.9


@dataclass(slots=True)
class Kind:
    """One kind of traffic and what became of it; latencies in seconds, evaluations by what they were spent on.

    `noisy` has the noisy copies of each image, in the order of the requests; empty where they weren't counted.
    """

    name: str
    attack: bool
    outcomes: Counter[str] = field(default_factory=Counter)
    added_s: list[float] = field(default_factory=list)
    evaluations: list[Mapping[str, float]] = field(default_factory=list)
    attempts: int | None = None
    noisy: list[Noisy] = field(default_factory=list)

    @property
    def requests(self) -> int:
        """How many were sent."""
        return self.outcomes.total()

    @property
    def caught(self) -> int:
        """How many were flagged or rejected."""
        return self.outcomes["flagged"] + self.outcomes["rejected"]

    @property
    def reaches_target(self) -> bool | None:
        """Whether enough of an attack was caught; None for benign traffic, and where the attack made nothing."""
        return self.caught >= TARGET_CAUGHT * self.requests if self.attack and self.requests else None

    @property
    def caught_interval(self) -> tuple[float, float]:
        """95 % interval of the share caught (Clopper and Pearson, 1934)."""
        return stats.clopper_pearson_interval(self.caught, self.requests)

    def added_quantile_s(self, quantile: float) -> float:
        """A quantile of what Guard added to the latency of a direct request."""
        return float(np.quantile(self.added_s, quantile)) if self.added_s else float("nan")

    @property
    def mean_evaluations(self) -> float:
        """Mean model evaluations a request."""
        return float(np.mean([sum(spent.values()) for spent in self.evaluations])) if self.evaluations else float("nan")

    def evaluations_for(self, *detectors: str) -> Float64Array:
        """Evaluations spent on some detectors, one number a request."""
        return np.array([sum(spent.get(name, 0) for name in detectors) for spent in self.evaluations])

    def evaluations_if_stable(self, *detectors: str) -> Float64Array:
        """The same, of those requests only of whose images no noisy copy changed the label."""
        spent: Float64Array = self.evaluations_for(*detectors)
        return spent[[row for row, noisy in enumerate(self.noisy) if noisy.stable]]


class Client:
    """A user's own code: tritonclient, unchanged but for the port."""

    def __init__(self, port: int) -> None:
        try:
            from tritonclient import grpc as triton  # noqa: PLC0415 - of the extra `evaluate`
        except ImportError as exc:
            raise EnvironmentProblem(
                "the demo needs tritonclient: pip install '.[cpu,evaluate]' in a clone of Guard"
            ) from exc
        self._triton = triton
        self._client = triton.InferenceServerClient(f"127.0.0.1:{port}")

    def send(self, image: Float32Array) -> tuple[str, float]:
        """Send one image; what became of it, and how long that took in seconds.

        Raises:
            ScreeningError: Guard could not look at it, or the server failed. Such a request is not caught, nor missed.
        """
        tensor = self._triton.InferInput("input", [1, *image.shape], "FP32")
        tensor.set_data_from_numpy(image[None])
        started = time.perf_counter()
        try:
            result: Any = self._client.infer(MODEL, [tensor])
        except self._triton.InferenceServerException as exc:
            elapsed = time.perf_counter() - started
            if f"guard_verdict={Verdict.ADVERSARIAL} " not in str(exc):
                raise ScreeningError(f"a request of the demo was not screened: {exc}") from exc
            return "rejected", elapsed
        elapsed = time.perf_counter() - started
        parameters = result.get_response().parameters
        verdict = parameters["guard_verdict"].string_param if "guard_verdict" in parameters else "clean"
        return ("forwarded" if verdict == "clean" else "flagged"), elapsed

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


def send_all(
    kind: Kind, images: Float32Array, *, direct: Client, guarded: Client, sidecar: Sidecar, reporter: Reporter
) -> None:
    """Send each image direct and through Guard, one after the other, and note what became of it."""
    with reporter.stage(f"sending {kind.name}", len(images)) as advance:
        for image in images:
            _, direct_s = direct.send(image)
            before = evaluations(sidecar)
            outcome, guarded_s = guarded.send(image)
            after = evaluations(sidecar)
            kind.outcomes[outcome] += 1
            kind.added_s.append(guarded_s - direct_s)
            kind.evaluations.append({name: after[name] - before.get(name, 0) for name in after})
            advance(1)


def evaluations(sidecar: Sidecar) -> dict[str, float]:
    """Model evaluations so far by what they were spent on, from Guard's own metric."""
    (family,) = sidecar.metrics.registry.restricted_registry(["guard_model_evaluations_total"]).collect()
    return {sample.labels["detector"]: sample.value for sample in family.samples if sample.labels["model"] == MODEL}
