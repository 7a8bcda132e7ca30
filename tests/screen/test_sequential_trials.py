"""Sequential trials, driven by hand: what they ask for, when they stop, and what they find."""

from __future__ import annotations

import math
from collections.abc import Container

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from guard import stats
from guard.profile import spec
from guard.screen.sensitivity import SensitivityTrial
from guard.screen.smoothing import SmoothingTrial
from guard.screen.trial import ITSELF, Probes
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
        wanted = range(probes.start, probes.start + probes.count)
        return torch.stack([OTHER if probes != ITSELF and i in self._changed else LABEL for i in wanted])


class TestSensitivity:
    """Wald's test on label changes, margins as the score."""

    @pytest.mark.parametrize(
        ("changed", "evaluations"),
        [
            (set(), 16),
            (set(range(64)), 8),
            ({0, 1, 2}, 8),
            ({9}, 32),
            ({0, 1}, 40),
            ({0, 8, 16}, 56),
            ({0, 8, 16, 24}, 64),
        ],
        ids=str,
    )
    def test_evaluations(self, changed: set[int], evaluations: int) -> None:
        """It stops at the first look, every 8 copies, at which Wald's test is decided, and at the cap."""
        trial = SensitivityTrial(SENSITIVITY)
        assert drive(trial, Copies(changed)) - 1 == evaluations
        assert trial.finding().evaluations == evaluations

    def test_first_ask(self) -> None:
        """The input itself comes first, with the first batch of mutants; then a batch at a time, each copy once."""
        trial = SensitivityTrial(SENSITIVITY)
        first = trial.ask()
        assert first == (ITSELF, Probes(GAUSSIAN, 0, 8))
        for probes in first:
            trial.tell(probes, Copies()(probes))
        assert trial.ask() == (Probes(GAUSSIAN, 8, 8),)

    @pytest.mark.parametrize(("cap", "batch", "evaluations"), [(20, 8, 20), (8, 16, 8), (1, 1, 1)])
    def test_cap(self, cap: int, batch: int, evaluations: int) -> None:
        """The cap is never passed, the last batch being cut to it."""
        design = SENSITIVITY.model_copy(update={"cap": cap, "batch": batch})
        assert drive(SensitivityTrial(design), Copies({0})) - 1 == evaluations

    @pytest.mark.parametrize("undecided", ["sign", "abstain"])
    def test_undecided_at_the_cap(self, undecided: str) -> None:
        """At the cap the policy says: score with what there is, or abstain."""
        design = SENSITIVITY.model_copy(update={"cap": 8, "undecided": undecided})
        trial = SensitivityTrial(design)
        drive(trial, Copies({3}))
        finding = trial.finding()
        assert finding.evaluations == 8
        assert isinstance(finding, Evidence if undecided == "sign" else Abstention)

    def test_score(self) -> None:
        """The score is the mean margin against the label: low for the stable, above zero where most labels change."""
        scores = []
        for changed in ({}, {3}, range(64)):
            trial = SensitivityTrial(SENSITIVITY.model_copy(update={"cap": 8}))
            drive(trial, Copies(changed))
            finding = trial.finding()
            assert isinstance(finding, Evidence)
            assert finding.details["label_change_rate"] == sum(i in changed for i in range(8)) / 8
            ratio = stats.wald_log_likelihood_ratio(sum(i in changed for i in range(8)), 8, 0.02, 0.2)
            assert finding.details["log_likelihood_ratio"] == pytest.approx(ratio)
            scores.append(finding.score)
        assert scores == pytest.approx([-2.0, -(7 * 2 - 4) / 8, 4.0])  # margins: 3 - 1, and 0 - 4

    def test_nothing_classified(self) -> None:
        """Before any answer it abstains."""
        assert isinstance(SensitivityTrial(SENSITIVITY).finding(), Abstention)

    def test_hypotheses_in_order(self) -> None:
        """A spec whose p0 is not below its p1 is refused: its test would never end, or end the wrong way."""
        for p0, p1 in ((0.2, 0.2), (0.3, 0.2)):
            with pytest.raises(ValidationError, match="must be below"):
                spec.SensitivitySpec(mutation=GAUSSIAN, p0=p0, p1=p1)


class TestSmoothing:
    """The anytime-valid certificate."""

    @pytest.mark.parametrize(("sigmas", "evaluations"), [(0.5, 24), (1.0, 48), (2.0, 352)])
    def test_proved(self, sigmas: float, evaluations: int) -> None:
        """It stops at the look at which the radius is proved, with a radius at least the policy's that is sound."""
        design = spec.SmoothingSpec(sigma=0.1, radius=0.1 * sigmas, cap=1000)
        trial = SmoothingTrial(design)
        assert drive(trial, Copies()) - 1 == evaluations
        finding = trial.finding()
        assert isinstance(finding, Certified)
        certificate = finding.certificate
        assert (certificate.label, certificate.n, certificate.alpha) == (1, evaluations, 0.001)
        assert (certificate.sigma, certificate.norm, finding.evaluations) == (0.1, "l2", evaluations)
        assert certificate.radius >= design.radius
        # The rate that the radius claims is rejected by the same evidence, but for the bisection's rounding.
        claimed = stats.label_change_rate_at(certificate.radius, 0.1)
        assert stats.log_e_value_below(0, evaluations, claimed) >= math.log(1000) - 1e-6

    def test_lost(self) -> None:
        """It stops as soon as the radius is lost."""
        trial = SmoothingTrial(SMOOTHING)
        assert drive(trial, Copies(range(64))) - 1 == 8
        finding = trial.finding()
        assert isinstance(finding, Abstention)
        assert finding.why == "radius 0.05 lost after 8 copies"

    @pytest.mark.parametrize("cap", [16, 20])
    def test_cap(self, cap: int) -> None:
        """At the cap it abstains, having bought no more."""
        trial = SmoothingTrial(SMOOTHING.model_copy(update={"cap": cap}))
        assert drive(trial, Copies()) - 1 == cap
        assert isinstance(trial.finding(), Abstention)
        assert "not proved" in trial.finding().why

    def test_absurd_radius(self) -> None:
        """A radius of forty deviations is abstained on, not a crash."""
        trial = SmoothingTrial(spec.SmoothingSpec(sigma=0.1, radius=4.0))
        assert drive(trial, Copies()) - 1 == 64
        assert isinstance(trial.finding(), Abstention)

    def test_asks_for_the_copies_of_sensitivity(self) -> None:
        """With the same sigma it asks for the very copies that sensitivity asks for."""
        assert SmoothingTrial(SMOOTHING).ask() == SensitivityTrial(SENSITIVITY).ask()

    def test_nothing_classified(self) -> None:
        """Before any answer it abstains."""
        assert isinstance(SmoothingTrial(SMOOTHING).finding(), Abstention)


def test_sensitivity_detector_opens_its_spec() -> None:
    """A sensitivity detector's trials follow its own spec."""
    trial = SensitivityTrial(SENSITIVITY.model_copy(update={"batch": 3}))
    assert trial.ask()[1].count == 3
