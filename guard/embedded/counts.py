"""What has been asked of a served model, counted. Durations are in nanoseconds, as the protocol has them."""

from __future__ import annotations

import time
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Timings:
    """What one inference took, step by step, and how many items it held."""

    items: int
    queue_ns: int
    compute_input_ns: int
    compute_infer_ns: int
    compute_output_ns: int


@dataclass(slots=True)
class Counts:
    """Totals since the server started. `success_ns` and `failure_ns` run from a request's arrival to its answer."""

    successes: int = 0
    success_ns: int = 0
    failures: int = 0
    failure_ns: int = 0
    items: int = 0
    last_inference_ms: int = 0
    spent_ns: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("queue", "compute_input", "compute_infer", "compute_output"), 0)
    )

    def succeeded(self, duration_ns: int, timings: Timings) -> None:
        """Count a request that was answered."""
        self.successes += 1
        self.success_ns += duration_ns
        self.items += timings.items
        self.last_inference_ms = time.time_ns() // 1_000_000
        for step in self.spent_ns:
            self.spent_ns[step] += getattr(timings, f"{step}_ns")

    def failed(self, duration_ns: int) -> None:
        """Count a request that was refused, or on which the model failed."""
        self.failures += 1
        self.failure_ns += duration_ns
