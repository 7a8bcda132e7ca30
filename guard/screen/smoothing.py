"""Randomised smoothing: an anytime-valid certificate of the policy's L2 radius.

The claim "radius >= r" is the claim "label-change rate under Gaussian noise <= 1 - Phi(r / sigma)" (Cohen et al.,
2019), so the copies are those of Gaussian sensitivity and are shared with it where sigma agrees. The test is an
e-process and may stop at any time: when the radius is proved, when it is lost, or at the cap.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from guard.profile.spec import Gaussian, SmoothingSpec
from guard.screen.trial import ITSELF, Probes
from guard.stats import (
    anytime_upper_bound,
    certified_radius,
    label_change_rate_at,
    log_e_value_above,
    log_e_value_below,
)
from guard.values import Abstention, Certificate, Certified, Finding


class SmoothingTrial:
    """Counts label changes under Gaussian noise until the radius is proved or lost."""

    def __init__(self, spec: SmoothingSpec) -> None:
        self._spec = spec
        self._mutation = Gaussian(sigma=spec.sigma)
        self._k0 = label_change_rate_at(spec.radius, spec.sigma)
        self._label: int | None = None
        self._n = 0
        self._changes = 0

    def ask(self) -> Sequence[Probes]:
        """The input itself with the first batch of noisy copies, then a batch at a time."""
        count = min(self._spec.batch, self._spec.cap - self._n)
        noisy = Probes(self._mutation, self._n, count)
        if self._label is None:
            return (ITSELF, noisy)
        return (noisy,) if count > 0 and not self._proved and not self._lost else ()

    def tell(self, probes: Probes, logits: Float[Tensor, "count classes"]) -> None:
        """Count the copies whose label differs."""
        if probes == ITSELF:
            self._label = int(logits[0].argmax())
            return
        assert self._label is not None  # noqa: S101 - the engine tells in the order of asking
        self._n += len(logits)
        self._changes += int((logits.argmax(dim=1) != self._label).sum())

    def finding(self) -> Finding:
        """A certificate of the largest radius that the evidence supports, if that is the policy's or more."""
        if self._label is None or not self._proved:
            state = "lost" if self._lost else "not proved"
            return Abstention(self._spec.name, self._n, f"radius {self._spec.radius:g} {state} after {self._n} copies")
        upper = anytime_upper_bound(self._changes, self._n, self._spec.alpha)
        certificate = Certificate(
            label=self._label,
            radius=max(certified_radius(upper, self._spec.sigma), self._spec.radius),
            sigma=self._spec.sigma,
            n=self._n,
            alpha=self._spec.alpha,
        )
        return Certified(self._spec.name, certificate, self._n)

    @property
    def _proved(self) -> bool:
        return log_e_value_below(self._changes, self._n, self._k0) >= -math.log(self._spec.alpha)

    @property
    def _lost(self) -> bool:
        return log_e_value_above(self._changes, self._n, self._k0) >= -math.log(self._spec.alpha)
