"""Sequential trials, driven by hand: what they ask for, when they stop, and what they find."""

from __future__ import annotations

import math
from collections.abc import Container

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from guard import stats
from guard.profile import spec
from guard.screen.build import build_detectors
from guard.screen.sensitivity import SensitivityTrial
from guard.screen.smoothing import SmoothingTrial
from guard.screen.trial import ITSELF, Probes, compare, source
from guard.values import Abstention, Certified, Evidence
from tests.screen.parts import drive

GAUSSIAN = spec.Gaussian(sigma=0.1)
SENSITIVITY = spec.SensitivitySpec(mutation=GAUSSIAN, p0=0.02, p1=0.2)
SMOOTHING = spec.SmoothingSpec(sigma=0.1, radius=0.05)
LABEL, OTHER = torch.tensor([0.0, 3.0, 1.0]), torch.tensor([4.0, 0.0, 0.0])


class Copies:
    """Answers: the label on the input itself, and on mutants but for those whose index is in `changed`."""

    def __init__(self, changed: Container[int] = ()) -> None:
        self._changed = changed

    def __call__(self, probes: Probes) -> Tensor:
        """Logits."""
        wanted = range(probes.start, probes.start + probes.copies)
        return torch.stack([OTHER if probes != ITSELF and i in self._changed else LABEL for i in wanted])


class TestSensitivity:
    """Wald's test on label changes, margins as the score."""

    @pytest.mark.parametrize(
        ("changed", "bought", "evaluations"),
        [
            (set(), 15, 15),
            (set(range(64)), 8, 2),
            ({0, 1, 2}, 8, 2),
            ({9}, 28, 28),
            ({0, 2}, 40, 40),
            ({0, 8, 16}, 52, 52),
            ({0, 8, 16, 24}, 25, 25),
            ({0, 8, 16, 40}, 64, 64),
            ({0, 4, 8, 9}, 9, 9),
            ({0, 1, 4, 6}, 8, 2),
            ({0, 6, 7}, 8, 8),
        ],
        ids=str,
    )
    def test_evaluations(self, changed: set[int], bought: int, evaluations: int) -> None:
        """It stops at the first copy at which Wald's test is decided, and at the cap, and buys little beyond."""
        trial = SensitivityTrial(SENSITIVITY)
        assert drive(trial, Copies(changed)) - 1 == bought
        assert trial.finding(1).evaluations == evaluations

    def test_first_ask(self) -> None:
        """First it wants a small chunk of mutants, then as many as the nearest boundary is away."""
        trial = SensitivityTrial(SENSITIVITY)
        assert trial.source is source(GAUSSIAN)
        assert trial.wanted == 8
        logits = Copies()(Probes(trial.source, 0, 8)).numpy()
        assert trial.take(compare(logits, np.ones(8, dtype=np.int64))) is False
        assert trial.wanted == 15

    @pytest.mark.parametrize("first_chunk", [1, 3, 15, 64])
    @pytest.mark.parametrize("changed", [{9}, {0, 1}, {0, 4, 8, 9}, set(range(0, 64, 3))], ids=str)
    def test_chunks_change_nothing(self, changed: set[int], first_chunk: int) -> None:
        """The first chunk changes what is bought, and nothing of what is found."""
        findings = []
        for design in (SENSITIVITY, SENSITIVITY.model_copy(update={"first_chunk": first_chunk})):
            trial = SensitivityTrial(design)
            drive(trial, Copies(changed))
            findings.append(trial.finding(1))
        assert findings[0] == findings[1]

    @pytest.mark.parametrize(("cap", "first_chunk", "evaluations"), [(20, 8, 20), (8, 16, 8), (1, 1, 1)])
    def test_cap(self, cap: int, first_chunk: int, evaluations: int) -> None:
        """The cap is never passed, the last chunk being cut to it."""
        design = SENSITIVITY.model_copy(update={"cap": cap, "first_chunk": first_chunk})
        assert drive(SensitivityTrial(design), Copies({0})) - 1 == evaluations

    @pytest.mark.parametrize("undecided", ["sign", "abstain"])
    def test_undecided_at_the_cap(self, undecided: str) -> None:
        """At the cap the policy says: score with what there is, or abstain."""
        design = SENSITIVITY.model_copy(update={"cap": 8, "undecided": undecided})
        trial = SensitivityTrial(design)
        drive(trial, Copies({3}))
        finding = trial.finding(1)
        assert finding.evaluations == 8
        assert isinstance(finding, Evidence if undecided == "sign" else Abstention)

    def test_score(self) -> None:
        """The score is the mean margin against the label: low for the stable, above zero where most labels change."""
        scores = []
        for changed, n in (({}, 8), ({3}, 8), (range(64), 2)):
            trial = SensitivityTrial(SENSITIVITY.model_copy(update={"cap": 8}))
            drive(trial, Copies(changed))
            finding = trial.finding(1)
            assert isinstance(finding, Evidence)
            assert finding.evaluations == n
            assert finding.details["label_change_rate"] == sum(i in changed for i in range(n)) / n
            ratio = stats.wald_log_likelihood_ratio(sum(i in changed for i in range(n)), n, 0.02, 0.2)
            assert finding.details["log_likelihood_ratio"] == pytest.approx(ratio)
            scores.append(finding.score)
        assert scores == pytest.approx([-2.0, -(7 * 2 - 4) / 8, 4.0])  # margins: 3 - 1, and 0 - 4

    def test_nothing_classified(self) -> None:
        """Before any answer it abstains."""
        assert isinstance(SensitivityTrial(SENSITIVITY).finding(1), Abstention)

    def test_hypotheses_in_order(self) -> None:
        """A spec whose p0 is not below its p1 is refused: its test would never end, or end the wrong way."""
        for p0, p1 in ((0.2, 0.2), (0.3, 0.2)):
            with pytest.raises(ValidationError, match="must be below"):
                spec.SensitivitySpec(mutation=GAUSSIAN, p0=p0, p1=p1)


class TestSmoothing:
    """The certificate, anytime-valid or by one look."""

    @pytest.mark.parametrize(("sigmas", "evaluations"), [(0.5, 22), (1.0, 47), (2.0, 351)])
    def test_proved(self, sigmas: float, evaluations: int) -> None:
        """It stops at the copy at which the radius is proved, with a radius at least the policy's that is sound."""
        design = spec.SmoothingSpec(sigma=0.1, radius=0.1 * sigmas, cap=1000)
        trial = SmoothingTrial(design)
        assert drive(trial, Copies()) - 1 == evaluations
        finding = trial.finding(1)
        assert isinstance(finding, Certified)
        certificate = finding.certificate
        assert (certificate.label, certificate.n, certificate.alpha) == (1, evaluations, 0.001)
        assert (certificate.sigma, certificate.norm, finding.evaluations) == (0.1, "l2", evaluations)
        assert certificate.radius >= design.radius
        # The rate that the radius claims is rejected by the same evidence, but for the bisection's rounding.
        claimed = stats.label_change_rate_at(certificate.radius, 0.1)
        assert stats.log_e_value_below(0, evaluations, claimed) >= math.log(1000) - 1e-6

    def test_lost(self) -> None:
        """It stops at the copy at which the radius is lost, in the first chunk already."""
        trial = SmoothingTrial(SMOOTHING)
        assert drive(trial, Copies(range(64))) - 1 == 8
        finding = trial.finding(1)
        assert isinstance(finding, Abstention)
        assert finding.why == "radius 0.05 lost after 7 copies"
        k0 = stats.label_change_rate_at(0.05, 0.1)
        assert stats.log_e_value_above(7, 7, k0) >= math.log(1000) > stats.log_e_value_above(6, 6, k0)

    @pytest.mark.parametrize(
        ("changed", "proved"), [(set(), True), ({5}, True), (set(range(0, 40, 3)), False)], ids=str
    )
    def test_one_look(self, changed: set[int], *, proved: bool) -> None:
        """With `fixed` it looks once, at the cap, and reports the radius of Clopper and Pearson's bound."""
        trial = SmoothingTrial(spec.SmoothingSpec(sigma=0.1, radius=0.05, cap=40, test="fixed"))
        assert drive(trial, Copies(changed)) - 1 == 40
        finding = trial.finding(1)
        bound = stats.clopper_pearson_upper(len(changed), 40, 0.001)
        assert isinstance(finding, Certified) is proved is (stats.certified_radius(bound, 0.1) >= 0.05)
        if isinstance(finding, Certified):
            assert finding.certificate.radius == stats.certified_radius(bound, 0.1)
            assert finding.certificate.n == finding.evaluations == 40
        else:
            assert "not proved after 40 copies" in finding.why

    @pytest.mark.parametrize("cap", [16, 20])
    def test_cap(self, cap: int) -> None:
        """At the cap it abstains, having bought no more."""
        trial = SmoothingTrial(SMOOTHING.model_copy(update={"cap": cap}))
        assert drive(trial, Copies()) - 1 == cap
        assert isinstance(trial.finding(1), Abstention)
        assert "not proved" in trial.finding(1).why

    def test_absurd_radius(self) -> None:
        """A radius of forty deviations is abstained on, not a crash."""
        trial = SmoothingTrial(spec.SmoothingSpec(sigma=0.1, radius=4.0))
        assert drive(trial, Copies()) - 1 == 64
        assert isinstance(trial.finding(1), Abstention)

    def test_asks_for_the_copies_of_sensitivity(self) -> None:
        """With the same sigma it wants the very copies that sensitivity wants."""
        smoothing, sensitivity = SmoothingTrial(SMOOTHING), SensitivityTrial(SENSITIVITY)
        assert smoothing.source is sensitivity.source
        assert smoothing.wanted == sensitivity.wanted == 8

    def test_nothing_classified(self) -> None:
        """Before any answer it abstains."""
        assert isinstance(SmoothingTrial(SMOOTHING).finding(1), Abstention)


def test_sensitivity_detector_opens_its_spec() -> None:
    """A sensitivity detector's trials follow its own spec."""
    (detector,) = build_detectors([SENSITIVITY.model_copy(update={"first_chunk": 3})])
    assert detector.open().wanted == 3
