"""Streams of copies: a detector that asks in rounds is told about the copies it asked for, whoever else uses them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from guard.profile import spec
from guard.screen.build import build_detectors
from guard.screen.trial import ITSELF, Answers, Probes, Trial, compare, source
from guard.values import Abstention, Finding, Screening
from tests.screen.parts import TIMEOUT_S, FakeBackend, item, itself_and_mutants, pixels, running

GAUSSIAN = spec.Gaussian(sigma=0.5)
SENSITIVITY = spec.SensitivitySpec(mutation=GAUSSIAN, p0=0.02, p1=0.2)
ROUNDS = ((0, 3), (3, 9), (1, 2), (9, 10), (0, 12))


class InRounds:
    """A detector that asks for copies from here to there, round after round, and keeps what it is told."""

    name = "rounds"

    def __init__(self, stage: int) -> None:
        self.stage = stage
        self.told: list[Answers] = []

    def open(self) -> Trial:
        """Start: it is its own trial."""
        return self

    def ask(self) -> Sequence[Probes]:
        """The next round, the input itself first of all."""
        if len(self.told) == len(ROUNDS) + 1:
            return ()
        start, stop = ROUNDS[max(len(self.told) - 1, 0)]
        mutants = Probes(source(GAUSSIAN), start, stop - start)
        return (mutants,) if self.told else (ITSELF, mutants)

    def tell(self, probes: Probes, answers: Answers) -> None:
        """Keep them."""
        assert len(answers.logits) == probes.copies
        self.told.append(answers)

    def finding(self, duration_s: float = 0.0) -> Finding:
        """Find nothing."""
        return Abstention(self.name, 0, "", duration_s)


def told(detector: InRounds, backend: FakeBackend, *, alone: bool, staged: bool) -> Screening:
    """Screen an input under the detector, alone or after one that uses the same copies."""
    detectors = (detector,) if alone else (*build_detectors([SENSITIVITY]), detector)
    with running(backend, detectors, decided=(lambda *_: False) if staged else None) as engine:
        return engine.submit(item(3)).result(TIMEOUT_S)


@pytest.mark.parametrize("batch", [1, 4, 64])
@pytest.mark.parametrize(("alone", "staged"), [(True, False), (False, False), (False, True)])
def test_rounds(batch: int, *, alone: bool, staged: bool) -> None:
    """Each round is told the answers about its own copies, new or known, however they came to be classified."""
    detector, backend = InRounds(stage=2), FakeBackend(pixels, batch=batch)
    screening = told(detector, backend, alone=alone, staged=staged)
    itself, mutants = itself_and_mutants(backend, item(3))
    assert torch.equal(torch.from_numpy(detector.told[0].logits), pixels(itself))
    for (start, stop), answers in zip(ROUNDS, detector.told[1:], strict=True):
        logits = pixels(mutants[start:stop]).numpy()
        expected = compare(logits, np.full(len(logits), screening.label))
        for found, right in zip(answers, expected, strict=True):
            assert np.array_equal(found, right)
    assert len(itself) == 1
    assert len(mutants) == sum(screening.spent.values()) - 1
    assert alone is (screening.spent.get("rounds") == 12)
