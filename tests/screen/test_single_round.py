"""Trials that are decided by one round of answers, and how detectors are built."""

from __future__ import annotations

import pytest
import torch

from guard.profile import spec
from guard.screen.build import build_detectors
from guard.screen.confidence import ConfidenceTrial
from guard.screen.network import NetworkTrial
from guard.screen.squeezing import SqueezingTrial
from guard.screen.trial import ITSELF, MODEL, NETWORK, Detector, Probes, Trial, margins
from guard.values import Abstention, Evidence
from tests.screen.parts import drive

SQUEEZERS = (spec.BitDepth(bits=2), spec.Median(), spec.NonLocalMeans())
LABEL, OTHER = torch.tensor([0.0, 3.0, 1.0]), torch.tensor([4.0, 0.0, 0.0])


class TestSqueezing:
    """The largest L1 distance between softmax outputs."""

    def test_largest_distance(self) -> None:
        """The score is the largest distance, each squeezer's is kept by name."""
        softmax = {
            ITSELF: [0.1, 0.7, 0.2],
            Probes(SQUEEZERS[0]): [0.1, 0.6, 0.3],
            Probes(SQUEEZERS[1]): [0.7, 0.1, 0.2],
            Probes(SQUEEZERS[2]): [0.1, 0.7, 0.2],
        }
        trial = SqueezingTrial(spec.SqueezingSpec(squeezers=SQUEEZERS))
        assert drive(trial, lambda probes: torch.tensor([softmax[probes]]).log()) == 4
        finding = trial.finding()
        assert isinstance(finding, Evidence)
        assert finding.score == pytest.approx(1.2, abs=1e-6)
        assert finding.evaluations == 3
        assert finding.details == pytest.approx(
            {"bit_depth_2": 0.2, "median_3": 1.2, "non_local_means_4": 0.0}, abs=1e-6
        )

    def test_part_of_the_answers(self) -> None:
        """With an answer missing it abstains, since the largest distance may be the missing one."""
        trial = SqueezingTrial(spec.SqueezingSpec(squeezers=SQUEEZERS))
        for probes in trial.ask()[:3]:
            trial.tell(probes, LABEL[None])
        assert isinstance(trial.finding(), Abstention)
        assert trial.finding().evaluations == 2

    def test_squeezer_named_twice(self) -> None:
        """A squeezer that is named twice counts once."""
        trial = SqueezingTrial(spec.SqueezingSpec(squeezers=(SQUEEZERS[0], SQUEEZERS[0])))
        drive(trial, lambda _: LABEL[None])
        assert isinstance(trial.finding(), Evidence)


class TestOneAnswer:
    """Detectors that need one answer."""

    def test_confidence(self) -> None:
        """Confidence scores minus the margin over the next class, so that the unsure score higher."""
        trial = ConfidenceTrial("confidence")
        assert isinstance(trial.finding(), Abstention)
        assert trial.ask() == (ITSELF,)
        assert drive(trial, lambda _: LABEL[None]) == 1
        assert trial.finding() == Evidence("confidence", score=-2.0, evaluations=1)

    def test_network(self) -> None:
        """The network scores its log-odds, on a backend of its own and at no evaluation of the model."""
        trial = NetworkTrial("network")
        assert isinstance(trial.finding(), Abstention)
        (probes,) = trial.ask()
        assert probes.backend == NETWORK != MODEL
        drive(trial, lambda _: torch.tensor([[0.5, 3.0]]))
        assert trial.finding() == Evidence("network", score=2.5, evaluations=0)


def test_margins() -> None:
    """The lead of the label over the best other class, negative where another leads; the logits stay as they were."""
    logits = torch.stack([LABEL, OTHER])
    assert margins(logits, 1).tolist() == [2.0, -4.0]
    assert torch.equal(logits, torch.stack([LABEL, OTHER]))


def test_build() -> None:
    """Each spec becomes its detector, in order, under its name, and opens a fresh trial each time."""
    specs = (
        spec.ConfidenceSpec(),
        spec.NetworkSpec(sha256=""),
        spec.SmoothingSpec(sigma=0.1, radius=0.05),
        spec.SensitivitySpec(mutation=spec.Uniform(width=0.1), p0=0.02, p1=0.2),
        spec.SqueezingSpec(squeezers=SQUEEZERS),
    )
    detectors = build_detectors(specs)
    names = ["confidence", "network", "smoothing", "sensitivity_uniform", "squeezing"]
    assert [detector.name for detector in detectors] == names
    for detector in detectors:
        assert isinstance(detector, Detector)
        assert isinstance(detector.open(), Trial)
        assert detector.open() is not detector.open()
