"""Randomised smoothing: a certificate of the policy's L2 radius.

The claim "radius >= r" is the claim "label-change rate under Gaussian noise <= 1 - Phi(r / sigma)" (Cohen et al.,
2019), so the copies are those of Gaussian sensitivity and are shared with it where sigma agrees. The test is an
e-process and may stop at any time: when the radius is proved, when it is lost, or at the cap. With `fixed` it is the
reference algorithm's: one look at the cap.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from guard.errors import ConfigError
from guard.profile.spec import Gaussian, SmoothingSpec
from guard.screen.boundaries import Stop, anytime, fixed
from guard.screen.trial import SequentialTrial, Source, source
from guard.stats import (
    anytime_upper_bound,
    certified_radius,
    clopper_pearson_upper,
    copies_to_certify,
    label_change_rate_at,
)
from guard.values import Abstention, Certificate, Certified, Finding

LARGEST_RADIUS_SIGMAS: Final = 3.0
"""Beyond it a certificate takes more copies than screening can afford."""
_LEAST_CAP = 64


def at_radius(spec: SmoothingSpec, radius: float) -> SmoothingSpec:
    """The same test for another radius. Its cap is twice the copies that an input without a label change needs.

    Raises:
        ConfigError: the radius is beyond what screening can afford.
    """
    most = LARGEST_RADIUS_SIGMAS * spec.sigma
    if radius > most:
        raise ConfigError(
            f"a radius of {radius:g} takes more copies than screening can afford; ask for {most:g} or less, which is "
            f"{LARGEST_RADIUS_SIGMAS:g} deviations of the noise"
        )
    needed = copies_to_certify(label_change_rate_at(radius, spec.sigma), spec.alpha)
    return spec.model_copy(update={"radius": radius, "cap": max(_LEAST_CAP, 2 * needed)})


class SmoothingTrial(SequentialTrial):
    """Counts label changes under Gaussian noise until the radius is proved or lost."""

    __slots__ = ("_spec",)

    def __init__(self, spec: SmoothingSpec) -> None:
        rule = fixed if spec.test == "fixed" else anytime
        boundaries = rule(_rate(spec.radius, spec.sigma), spec.alpha, spec.cap)
        super().__init__(_gaussian(spec.sigma), boundaries, spec.first_chunk)
        self._spec = spec

    def finding(self, label: int | None, duration_s: float = 0.0) -> Finding:
        """A certificate of the largest radius that the evidence supports, if that is the policy's or more."""
        spec, (n, changes, stop) = self._spec, self._step
        if stop is not Stop.STABLE or label is None:
            state = "lost" if stop is Stop.SENSITIVE else "not proved"
            return Abstention(spec.name, n, f"radius {spec.radius:g} {state} after {n} copies", duration_s)
        radius = max(_radius(changes, n, spec.alpha, spec.sigma, spec.test), spec.radius)
        certificate = Certificate(label=label, radius=radius, sigma=spec.sigma, n=n, alpha=spec.alpha)
        return Certified(spec.name, certificate, n, duration_s)


@lru_cache(maxsize=64)
def _gaussian(sigma: float) -> Source:
    return source(Gaussian(sigma=sigma))


@lru_cache(maxsize=64)
def _rate(radius: float, sigma: float) -> float:
    return label_change_rate_at(radius, sigma)


@lru_cache(maxsize=4096)
def _radius(changes: int, n: int, alpha: float, sigma: float, test: str) -> float:
    """Kept, since tests end at few places: a bound costs forty times what a walk to it does."""
    bound = clopper_pearson_upper if test == "fixed" else anytime_upper_bound
    return certified_radius(bound(changes, n, alpha), sigma)
