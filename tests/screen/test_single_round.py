"""Trials that are decided by one round of answers, and how detectors are built."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from guard.profile import spec
from guard.screen.auxiliary import AuxiliaryTrial
from guard.screen.build import build_detectors
from guard.screen.confidence import ConfidenceTrial
from guard.screen.network import NetworkTrial
from guard.screen.trial import ITSELF, MODEL, NETWORK, Detector, Probes, SequentialTrial, Trial, compare, source
from guard.values import Abstention, Evidence
from tests.screen.parts import drive

SQUEEZERS = (spec.BitDepth(bits=2), spec.Median(), spec.NonLocalMeans())
LABEL, OTHER = torch.tensor([0.0, 3.0, 1.0]), torch.tensor([4.0, 0.0, 0.0])


def squeezing(*squeezers: spec.Squeezer) -> Trial:
    """A trial of squeezing with these."""
    (detector,) = build_detectors((spec.SqueezingSpec(squeezers=squeezers),))
    trial = detector.open()
    assert isinstance(trial, Trial)
    return trial


class TestSqueezing:
    """The largest L1 distance between softmax outputs."""

    def test_largest_distance(self) -> None:
        """The score is the largest distance, each squeezer's is kept by name."""
        softmax = {
            ITSELF: [0.1, 0.7, 0.2],
            Probes(source(SQUEEZERS[0])): [0.1, 0.6, 0.3],
            Probes(source(SQUEEZERS[1])): [0.7, 0.1, 0.2],
            Probes(source(SQUEEZERS[2])): [0.1, 0.7, 0.2],
        }
        trial = squeezing(*SQUEEZERS)
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
        trial = squeezing(*SQUEEZERS)
        for probes in trial.ask()[:3]:
            trial.tell(probes, compare(LABEL[None].numpy(), np.array([1])))
        assert isinstance(trial.finding(), Abstention)
        assert trial.finding().evaluations == 2

    def test_squeezer_named_twice(self) -> None:
        """A squeezer that is named twice counts once."""
        trial = squeezing(SQUEEZERS[0], SQUEEZERS[0])
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
        assert probes.source.backend == NETWORK != MODEL
        drive(trial, lambda _: torch.tensor([[0.5, 3.0]]))
        assert trial.finding() == Evidence("network", score=2.5, evaluations=0)

    def test_auxiliary(self) -> None:
        """The score is how unlikely the model's label is to the auxiliary one, once both were asked."""
        (detector,) = build_detectors((spec.NetworkSpec(on="auxiliary", sha256=""),))
        trial = detector.open()
        assert isinstance(trial, AuxiliaryTrial)
        asked = trial.ask()
        assert [each.source.backend for each in asked] == [MODEL, "auxiliary"]
        softmax = {MODEL: [0.1, 0.7, 0.2], "auxiliary": [0.5, 0.3, 0.2]}
        for n, probes in enumerate(asked):
            finding = trial.finding()
            assert isinstance(finding, Abstention), n
            logits = torch.tensor([softmax[probes.source.backend]]).log() + 7
            trial.tell(probes, compare(logits.numpy(), np.array([1])))
        assert not trial.ask()
        finding = trial.finding()
        assert isinstance(finding, Evidence)
        assert finding.score == pytest.approx(-math.log(0.3))
        assert finding.evaluations == 0


class TestAnswers:
    """What trials are told."""

    def test_compare(self) -> None:
        """Whose label changed, and the lead of the label over the best other class; the logits stay as they were."""
        logits = torch.stack([LABEL, OTHER, OTHER]).numpy()
        before = logits.copy()
        answers = compare(logits, np.array([1, 1, 0]))
        assert answers.changed.tolist() == [False, True, False]
        assert answers.margins.tolist() == [2.0, -4.0, 4.0]
        assert (answers.changes, answers.margin_sum) == (1, 2.0)
        assert np.array_equal(answers.logits, before)
        assert np.array_equal(logits, before)

    def test_part(self) -> None:
        """Part of the answers are those about its rows, their counts and sums too."""
        rng = np.random.default_rng(1)
        logits, labels = rng.normal(size=(40, 3)).astype(np.float32), rng.integers(0, 3, 40)
        whole = compare(logits, labels)
        for start, stop in ((0, 40), (0, 7), (7, 40), (13, 13), (39, 40)):
            part, expected = whole.part(start, stop), compare(logits[start:stop], labels[start:stop])
            for found, right in zip(part, expected, strict=True):
                assert np.array_equal(found, right)

    def test_sums_do_not_depend_on_chunks(self) -> None:
        """The margins of chunks sum to those of the whole exactly, however it is cut."""
        margins = np.random.default_rng(2).normal(size=(60, 1)).astype(np.float32) * 100
        whole = compare(np.hstack([margins, np.zeros_like(margins)]), np.zeros(60, dtype=np.int64))
        for size in (1, 7, 32):
            assert sum(whole.part(at, min(at + size, 60)).margin_sum for at in range(0, 60, size)) == whole.margin_sum

    def test_one_source_for_the_same_copies(self) -> None:
        """Copies that are the same have one source, by identity; others, or those of another backend, have not."""
        assert source(spec.Gaussian(sigma=0.1)) is source(spec.Gaussian(sigma=0.1))
        others = {source(spec.Gaussian(sigma=0.1)), source(spec.Gaussian(sigma=0.2)), source(spec.Uniform(width=0.1))}
        assert len(others | {source(spec.Gaussian(sigma=0.1), NETWORK)}) == 4


def test_build() -> None:
    """Each spec becomes its detector, in order, under its name, in its stage, and opens a fresh trial each time."""
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
    assert [detector.stage for detector in detectors] == [0, 0, 2, 1, 0]
    for detector in detectors:
        assert isinstance(detector, Detector)
        assert isinstance(detector.open(), Trial | SequentialTrial)
        assert detector.open() is not detector.open()
