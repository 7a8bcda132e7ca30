"""Sensitivity: how the label holds under mutation, evidence bought by Wald's test.

Follows mutation testing (Wang et al., ICSE 2019) with two changes: both boundaries are looked at after every copy, and
the score uses the soft outputs. The score is the mean margin *against* the input's own label, so it is high for
shaky inputs and far below benign for those that are too sure: it counts in both directions.
"""

from __future__ import annotations

from guard.profile.spec import SensitivitySpec
from guard.screen.boundaries import Stop, wald
from guard.screen.trial import SequentialTrial, source
from guard.stats import wald_log_likelihood_ratio
from guard.values import Abstention, Evidence, Finding


class SensitivityTrial(SequentialTrial):
    """Counts label changes until Wald's test decides or the cap truncates it."""

    __slots__ = ("_spec",)

    def __init__(self, spec: SensitivitySpec) -> None:
        boundaries = wald(spec.p0, spec.p1, spec.alpha, spec.beta, spec.cap)
        super().__init__(source(spec.mutation), boundaries, spec.first_chunk)
        self._spec = spec

    def finding(self, label: int | None, duration_s: float = 0.0) -> Finding:  # noqa: ARG002 - changes are from it
        """Mean margin against the label at the stop; label-change rate and the test's ratio as details."""
        spec, (n, changes, stop) = self._spec, self._step
        if n == 0:
            return Abstention(spec.name, 0, "no mutant was classified", duration_s)
        if spec.undecided == "abstain" and stop not in (Stop.STABLE, Stop.SENSITIVE):
            return Abstention(spec.name, n, f"Wald's test is undecided after {n} copies", duration_s)
        return Evidence(
            detector=spec.name,
            score=-self._margin_sum / n,
            evaluations=n,
            details={
                "label_change_rate": changes / n,
                "log_likelihood_ratio": wald_log_likelihood_ratio(changes, n, spec.p0, spec.p1),
            },
            duration_s=duration_s,
        )
