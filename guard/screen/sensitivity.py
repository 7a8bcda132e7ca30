"""Sensitivity: how the label holds under mutation, evidence bought by Wald's test.

Follows mutation testing (Wang et al., ICSE 2019) with two changes: both boundaries are looked at after every batch, and
the score uses the soft outputs. The score is the mean margin *against* the input's own label, so it is high for
shaky inputs and far below benign for those that are too sure: it counts in both directions.
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from guard.profile.spec import SensitivitySpec
from guard.screen.trial import ITSELF, Probes, margins
from guard.stats import Sprt, wald_decision, wald_log_likelihood_ratio
from guard.values import Abstention, Evidence, Finding


class SensitivityTrial:
    """Counts label changes until Wald's test decides or the cap truncates it."""

    def __init__(self, spec: SensitivitySpec) -> None:
        self._spec = spec
        self._label: int | None = None
        self._n = 0
        self._changes = 0
        self._margin_sum = 0.0

    def ask(self) -> Sequence[Probes]:
        """The input itself with the first batch of mutants, then a batch at a time."""
        count = min(self._spec.batch, self._spec.cap - self._n)
        mutants = Probes(self._spec.mutation, self._n, count)
        if self._label is None:
            return (ITSELF, mutants)
        return (mutants,) if self._state() is Sprt.UNDECIDED and count > 0 else ()

    def tell(self, probes: Probes, logits: Float[Tensor, "count classes"]) -> None:
        """Count the mutants whose label differs."""
        if probes == ITSELF:
            self._label = int(logits[0].argmax())
            return
        assert self._label is not None  # noqa: S101 - the engine tells in the order of asking
        self._n += len(logits)
        self._changes += int((logits.argmax(dim=1) != self._label).sum())
        self._margin_sum += float(margins(logits, self._label).double().sum())

    def finding(self) -> Finding:
        """Mean margin against the label at the stop; label-change rate and the test's ratio as details."""
        if self._n == 0:
            return Abstention(self.name, 0, "no mutant was classified")
        if self._state() is Sprt.UNDECIDED and self._spec.undecided == "abstain":
            return Abstention(self.name, self._n, f"Wald's test is undecided after {self._n} copies")
        return Evidence(
            detector=self.name,
            score=-self._margin_sum / self._n,
            evaluations=self._n,
            details={
                "label_change_rate": self._changes / self._n,
                "log_likelihood_ratio": wald_log_likelihood_ratio(self._changes, self._n, self._spec.p0, self._spec.p1),
            },
        )

    @property
    def name(self) -> str:
        """The detector's name."""
        return self._spec.name

    def _state(self) -> Sprt:
        spec = self._spec
        return wald_decision(self._changes, self._n, p0=spec.p0, p1=spec.p1, alpha=spec.alpha, beta=spec.beta)
