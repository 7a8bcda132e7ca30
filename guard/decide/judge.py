"""Findings to a verdict: one conformal p-value from all detectors, at the rate its owner asked for."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np

from guard import stats
from guard.decide.combination import Combination
from guard.decide.threshold import p_value_threshold
from guard.errors import RateUnsupported
from guard.profile.profile import Profile
from guard.values import (
    Abstention,
    Certified,
    Evidence,
    Fault,
    FaultReason,
    Finding,
    ItemDecision,
    Screening,
    UnscreenedReason,
    Verdict,
)


class Judge:
    """Judges items against a profile. Immutable once built, so any number of requests may share it.

    An item is flagged when its conformal p-value, of the combination of its detectors' surprises among those of
    held-out benign inputs, is at or below a threshold. The threshold keeps the false-positive rate on average over the
    draw of those inputs or, where `confidence` is given, in that share of all draws; and twice that for each kind of
    harmless change of which the profile has samples enough.

    Raises:
        RateUnsupported: the profile holds too few benign samples for the rate.
    """

    def __init__(
        self,
        profile: Profile,
        *,
        false_positive_rate: float,
        confidence: float | None = None,
        require_certificate: bool = False,
    ) -> None:
        self._combination = Combination(profile)
        self._scoring = frozenset(profile.scoring)
        combined = self._combination.of_all(profile.calibration)
        self._benign = np.sort(combined)
        self._require_certificate = require_certificate
        n = len(combined)
        needed = stats.samples_needed(false_positive_rate, confidence)
        if n < needed:
            least = math.ceil(stats.least_rate(n, confidence) * 10_000) / 10_000
            raise RateUnsupported(
                f"the profile holds {n} calibration samples, and a false-positive rate of {false_positive_rate:g} "
                f"needs {needed}; calibrate with more clean samples, or ask for {least:g} or more"
            )
        self.threshold = p_value_threshold(combined, profile.calibration.groups, false_positive_rate, confidence)

    def certain(self, findings: Iterable[Finding]) -> bool:
        """Whether an item with these findings is flagged whatever else is found: more evidence never takes any away."""
        scores = {f.detector: f.score for f in findings if isinstance(f, Evidence) and math.isfinite(f.score)}
        return bool(scores) and self._p_value(scores) <= self.threshold

    def judge(self, screening: Screening) -> ItemDecision:
        """The verdict on one item."""
        label = screening.label
        findings = tuple(self._calibrated(finding, label) for finding in screening.findings)
        scores = {f.detector: f.score for f in findings if isinstance(f, Evidence)}
        p_value, ties = None, 0
        if label is not None and scores:
            combined = self._combination(scores)
            p_value, ties = stats.conformal_p_value(self._benign, combined), stats.ties(self._benign, combined)
        if p_value is not None and p_value <= self.threshold:
            return self._flagged(p_value, findings, scores, ties)
        fault = next((f for f in findings if isinstance(f, Fault)), None)
        if fault is not None or p_value is None:
            deadline = fault is not None and fault.reason is FaultReason.DEADLINE
            reason = UnscreenedReason.DEADLINE if deadline else UnscreenedReason.FAULT
            return ItemDecision(Verdict.UNSCREENED, p_value, findings, reason, ties)
        if self._abstains(findings):
            return ItemDecision(Verdict.ABSTAIN, p_value, findings, ties=ties)
        return ItemDecision(Verdict.CLEAN, p_value, findings, ties=ties)

    def _flagged(
        self, p_value: float, findings: tuple[Finding, ...], scores: Mapping[str, float], ties: int
    ) -> ItemDecision:
        shares, together = self._combination.shares(scores)
        shared = tuple(replace(f, share=shares[f.detector]) if isinstance(f, Evidence) else f for f in findings)
        return ItemDecision(Verdict.ADVERSARIAL, p_value, shared, ties=ties, together=together)

    def _p_value(self, scores: Mapping[str, float]) -> float:
        return stats.conformal_p_value(self._benign, self._combination(scores))

    def _abstains(self, findings: Iterable[Finding]) -> bool:
        for finding in findings:
            if isinstance(finding, Abstention) and (finding.detector in self._scoring or self._require_certificate):
                return True
        return self._require_certificate and not any(isinstance(f, Certified) for f in findings)

    def _calibrated(self, finding: Finding, label: int | None) -> Finding:
        if not isinstance(finding, Evidence) or label is None:
            return finding
        if not math.isfinite(finding.score):
            return Fault(finding.detector, FaultReason.NON_FINITE_OUTPUT, finding.evaluations, finding.duration_s)
        p_value = self._combination.p_value(finding.detector, finding.score)
        return replace(finding, p_value=p_value, samples=self._combination.samples(finding.detector))
