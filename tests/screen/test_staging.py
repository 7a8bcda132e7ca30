"""Stages: what a verdict that is certain spares, and that nothing else changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from guard.errors import BackendError
from guard.profile import spec
from guard.screen.build import build_detectors
from guard.screen.live import Decided
from guard.screen.trial import NETWORK
from guard.values import Certified, Evidence, Fault, FaultReason, Finding, Screening, Spared
from tests.screen.parts import (
    TIMEOUT_S,
    FakeBackend,
    HeldBackend,
    item,
    itself_and_mutants,
    model_info,
    pixels,
    running,
    screen,
    steady,
    untimed,
)

CONFIDENCE = spec.ConfidenceSpec()
SENSITIVITY = spec.SensitivitySpec(mutation=spec.Gaussian(sigma=0.5), p0=0.02, p1=0.2)
UNIFORM = spec.SensitivitySpec(mutation=spec.Uniform(width=0.5), p0=0.05, p1=0.2, undecided="abstain")
SMOOTHING = spec.SmoothingSpec(sigma=0.5, radius=0.25)
SQUEEZING = spec.SqueezingSpec(squeezers=(spec.BitDepth(bits=8), spec.BitDepth(bits=7)))
NETWORK_SPEC = spec.NetworkSpec(sha256="")
ALL = (SMOOTHING, CONFIDENCE, SENSITIVITY, UNIFORM, SQUEEZING, NETWORK_SPEC)
FIRST, SECOND = {"confidence", "squeezing", "network"}, {"sensitivity_gaussian", "sensitivity_uniform"}


@dataclass
class Judge:
    """Says that the verdict is certain once so many detectors have been heard, and keeps what it was shown."""

    enough: int = 99
    shown: list[set[str]] = field(default_factory=list)

    def __call__(self, findings: Sequence[Finding]) -> bool:
        """Whether it is."""
        self.shown.append({finding.detector for finding in findings})
        return len(findings) >= self.enough


def network() -> FakeBackend:
    """A detector network."""
    return FakeBackend(lambda x: x[:, :2], info=model_info(classes=2))


def staged(
    backend: FakeBackend, decided: Decided | None, specs: Sequence[spec.DetectorSpec] = ALL, number: int = 1
) -> Screening:
    """Screen one input stage by stage."""
    with running(backend, build_detectors(specs), others={NETWORK: network()}, decided=decided) as engine:
        return engine.submit(item(number)).result(TIMEOUT_S)


def spared(screening: Screening) -> set[str]:
    """Detectors that were not needed."""
    return {finding.detector for finding in screening.findings if isinstance(finding, Spared)}


@pytest.mark.parametrize("number", range(1, 9))
def test_undecided(number: int) -> None:
    """An item whose verdict stays open has the very findings of one without stages, whatever the batches."""
    plain = staged(FakeBackend(pixels), None, number=number)
    for batch in (1, 7, 64):
        assert untimed(staged(FakeBackend(pixels, batch=batch), Judge(), number=number)) == untimed(plain)


def test_spares_all_but_the_first_stage() -> None:
    """If the cheap detectors settle it, no mutant is classified; what was spared abstains, at its place."""
    backend, judge = FakeBackend(steady), Judge(enough=3)
    screening = staged(backend, judge)
    assert [finding.detector for finding in screening.findings] == [each.name for each in ALL]
    assert spared(screening) == {"smoothing", *SECOND}
    assert all(finding.evaluations == 0 for finding in screening.findings if finding.detector in spared(screening))
    assert screening.spent == {"label": 1, "squeezing": 2}
    assert sum(backend.sizes) == 3
    assert screening.label == 1
    assert judge.shown == [FIRST]


def test_spares_the_last_stage() -> None:
    """A verdict that sensitivity settles spares the certificate."""
    backend, judge = FakeBackend(steady), Judge(enough=5)
    screening = staged(backend, judge)
    assert spared(screening) == {"smoothing"}
    assert screening.spent["sensitivity_gaussian"] == 15
    assert "smoothing" not in screening.spent
    assert judge.shown == [FIRST, FIRST | SECOND]


def test_asked_between_stages_only() -> None:
    """The judge is asked once between two stages, and not when nothing is left to spare."""
    judge = Judge()
    screening = staged(FakeBackend(steady), judge)
    assert judge.shown == [FIRST, FIRST | SECOND]
    assert spared(screening) == set()
    for alone in (CONFIDENCE, SENSITIVITY, SMOOTHING):
        staged(FakeBackend(steady), judge, (alone,))
    staged(FakeBackend(steady), judge, ())
    assert len(judge.shown) == 2


def test_all_begin_at_once_without_a_judge() -> None:
    """Without a judge there is nothing to wait for: the first batch has the first copies of all."""
    backend = FakeBackend(steady, batch=64)
    staged(backend, None)
    assert backend.sizes[0] == 1 + 2 + 8 + 8


def test_stages_in_turn() -> None:
    """With one, mutants are made once the cheap findings are in, and their certificate after that."""
    backend = FakeBackend(steady, batch=64)
    staged(backend, Judge(), (SMOOTHING, SENSITIVITY, CONFIDENCE, SQUEEZING))
    assert backend.sizes == [1 + 2, 8, 7, 7]


def test_certificate_uses_what_is_known() -> None:
    """A later stage is told what earlier ones bought: a certificate for which they bought enough costs nothing."""
    near = SMOOTHING.model_copy(update={"radius": 0.05})
    backend = FakeBackend(steady)
    screening = staged(backend, Judge(), (near, SENSITIVITY))
    assert isinstance(screening.findings[0], Certified)
    assert screening.findings[0].evaluations <= 15
    assert screening.spent == {"label": 1, "sensitivity_gaussian": 15}
    assert len(itself_and_mutants(backend, item(1))[1]) == 15


def test_without_a_label() -> None:
    """Without the model's own label nothing can be certain, and nobody is asked."""

    def fail(x: Tensor) -> Tensor:
        raise BackendError("gone")

    judge = Judge(enough=0)
    screening = staged(FakeBackend(fail), judge)
    assert judge.shown == []
    assert screening.label is None
    faults = [finding.reason for finding in screening.findings if isinstance(finding, Fault)]
    assert faults == [FaultReason.BACKEND] * 5
    assert isinstance(screening.findings[-1], Evidence)


def test_judge_sees_faults() -> None:
    """The judge is shown what failed too: it is his to say what that is worth."""

    def answer(x: Tensor) -> Tensor:
        logits = steady(x).clone()
        logits[(x != torch.from_numpy(item(1))).any(dim=1)] = float("nan")
        return logits

    judge = Judge(enough=5)
    screening = staged(FakeBackend(answer), judge, (SMOOTHING, CONFIDENCE, SENSITIVITY, UNIFORM, NETWORK_SPEC))
    assert judge.shown == [{"confidence", "network"}, {"confidence", "network"} | SECOND]
    # Nothing was certain, so the certificate was tried, with the copies that failed already.
    assert [type(finding) for finding in screening.findings] == [Fault, Evidence, Fault, Fault, Evidence]


def test_deadline_in_a_stage() -> None:
    """At the deadline what had no turn faults like what was cut short: it can't pass for spared."""
    backend = HeldBackend(steady)
    with running(backend, build_detectors((SMOOTHING, CONFIDENCE, SENSITIVITY)), decided=Judge()) as engine:
        future = engine.submit(item(1), deadline_s=3.0)
        assert backend.entered.wait(TIMEOUT_S)
        with pytest.raises(TimeoutError):
            future.result(3.1)  # the passing of time is what is tested
        backend.release.set()
        smoothing, confidence, sensitivity = future.result(TIMEOUT_S).findings
    assert isinstance(confidence, Evidence)
    for cut_short in (smoothing, sensitivity):
        assert isinstance(cut_short, Fault)
        assert cut_short.reason is FaultReason.DEADLINE
        assert cut_short.duration_s > 2.0


def test_items_in_different_stages_share_batches() -> None:
    """A spared item leaves no trace in another that shares its batches."""

    def decided(findings: Sequence[Finding]) -> bool:
        return any(isinstance(finding, Evidence) and finding.score < -1.5 for finding in findings)

    with running(FakeBackend(pixels, batch=9), build_detectors(ALL[:-1]), decided=decided) as engine:
        futures = [engine.submit(item(n)) for n in range(1, 9)]
        together = [future.result(TIMEOUT_S) for future in futures]
    assert {bool(spared(screening)) for screening in together} == {False, True}
    for number, screening in enumerate(together, start=1):
        expected = screen(FakeBackend(pixels), ALL[:-1], item(number))
        for found, right in zip(untimed(screening)[1], untimed(expected)[1], strict=True):
            assert found == right or found.detector in spared(screening)
