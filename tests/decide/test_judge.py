"""Judge: findings to a verdict, at the rate its owner asked for."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binomtest

from guard import stats
from guard.decide.combination import Combination
from guard.decide.judge import Judge
from guard.errors import RateUnsupported
from guard.profile.profile import BenignScores
from guard.profile.spec import ConfidenceSpec
from guard.values import (
    Abstention,
    Certificate,
    Certified,
    Evidence,
    Fault,
    FaultReason,
    Finding,
    Screening,
    UnscreenedReason,
    Verdict,
)
from tests.profile.parts import NETWORK_SPEC, SMOOTHING_SPEC, a_profile, benign

DETECTORS = (ConfidenceSpec(), NETWORK_SPEC, SMOOTHING_SPEC)


def drawn(n: int, rng: np.random.Generator) -> BenignScores:
    """Benign samples of three classes, whose scores depend on the class and on each other."""
    labels = rng.integers(0, 3, n)
    confidence = rng.standard_normal(n) + labels
    return benign(labels, confidence=confidence, network=0.5 * confidence + rng.standard_normal(n))


RNG = np.random.default_rng(0)
PROFILE = a_profile(DETECTORS, drawn(300, RNG), drawn(300, RNG))

ORDINARY = Evidence("network", 0.5, 0)
EXTREME = Evidence("network", 40.0, 0)
SURE = Evidence("confidence", 0.9, 1)
FAR_TOO_SURE = Evidence("confidence", -40.0, 1)
CERTIFIED = Certified("smoothing", Certificate(1, 0.3, 0.5, 47, 0.001), 47)
UNCERTIFIED = Abstention("smoothing", 64, "radius not proved")
TORN = Abstention("confidence", 64, "undecided")
BROKEN = Fault("confidence", FaultReason.BACKEND)
LATE = Fault("confidence", FaultReason.DEADLINE)


@pytest.mark.parametrize(
    ("findings", "verdict", "reason"),
    [
        ((SURE, ORDINARY, CERTIFIED), Verdict.CLEAN, None),
        ((SURE, ORDINARY, UNCERTIFIED), Verdict.CLEAN, None),
        ((SURE, EXTREME, CERTIFIED), Verdict.ADVERSARIAL, None),
        ((FAR_TOO_SURE, ORDINARY, CERTIFIED), Verdict.ADVERSARIAL, None),
        ((BROKEN, ORDINARY, CERTIFIED), Verdict.UNSCREENED, UnscreenedReason.FAULT),
        ((LATE, ORDINARY, CERTIFIED), Verdict.UNSCREENED, UnscreenedReason.DEADLINE),
        ((BROKEN, EXTREME, CERTIFIED), Verdict.ADVERSARIAL, None),
        ((LATE, EXTREME, UNCERTIFIED), Verdict.ADVERSARIAL, None),
        ((SURE, ORDINARY, Fault("smoothing", FaultReason.BACKEND)), Verdict.UNSCREENED, UnscreenedReason.FAULT),
        ((TORN, ORDINARY, CERTIFIED), Verdict.ABSTAIN, None),
        ((TORN, EXTREME, CERTIFIED), Verdict.ADVERSARIAL, None),
        ((TORN, Fault("network", FaultReason.BACKEND), CERTIFIED), Verdict.UNSCREENED, UnscreenedReason.FAULT),
        ((TORN, Abstention("network", 0, "not asked"), CERTIFIED), Verdict.UNSCREENED, UnscreenedReason.FAULT),
        ((), Verdict.UNSCREENED, UnscreenedReason.FAULT),
    ],
)
def test_verdicts(findings: tuple[Finding, ...], verdict: Verdict, reason: UnscreenedReason | None) -> None:
    """Proof of an attack outweighs a detector that failed, a failure outweighs doubt, and doubt outweighs clean."""
    decided = Judge(PROFILE, false_positive_rate=0.05).judge(Screening(1, findings, {}))
    assert (decided.verdict, decided.reason) == (verdict, reason)
    assert [f.detector for f in decided.findings] == [f.detector for f in findings], "none is lost"


@pytest.mark.parametrize(
    ("findings", "verdict"),
    [
        ((SURE, ORDINARY, CERTIFIED), Verdict.CLEAN),
        ((SURE, ORDINARY, UNCERTIFIED), Verdict.ABSTAIN),
        ((SURE, ORDINARY), Verdict.ABSTAIN),
        ((SURE, EXTREME, UNCERTIFIED), Verdict.ADVERSARIAL),
        ((SURE, EXTREME, CERTIFIED), Verdict.ADVERSARIAL),
        ((BROKEN, ORDINARY, UNCERTIFIED), Verdict.UNSCREENED),
    ],
)
def test_required_certificate(findings: tuple[Finding, ...], verdict: Verdict) -> None:
    """Where a certificate is required, an input without one is in doubt; with one it is not therefore clean."""
    judge = Judge(PROFILE, false_positive_rate=0.05, require_certificate=True)
    assert judge.judge(Screening(1, findings, {})).verdict is verdict


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_non_finite_score_is_a_fault(score: float) -> None:
    """A score that is no number becomes a fault of its detector, and can't pass for clean."""
    findings = (SURE, Evidence("network", score, 0, duration_s=0.5))
    decided = Judge(PROFILE, false_positive_rate=0.05).judge(Screening(1, findings, {}))
    assert (decided.verdict, decided.reason) == (Verdict.UNSCREENED, UnscreenedReason.FAULT)
    assert decided.findings[1] == Fault("network", FaultReason.NON_FINITE_OUTPUT, 0, 0.5)


def test_unknown_label_is_unscreened() -> None:
    """An input that the model could not name is unscreened, however its scores look, and has no p-value."""
    decided = Judge(PROFILE, false_positive_rate=0.05).judge(Screening(None, (SURE, EXTREME), {}))
    assert (decided.verdict, decided.p_value, decided.reason) == (
        Verdict.UNSCREENED,
        None,
        UnscreenedReason.FAULT,
    )
    assert decided.findings == (SURE, EXTREME)


def test_p_values() -> None:
    """The combined p-value is conformal, (1 + #{benign >= score}) / (n + 1); a finding carries its detector's."""
    decided = Judge(PROFILE, false_positive_rate=0.05).judge(Screening(2, (SURE, EXTREME), {}))
    combination = Combination(PROFILE)
    own = [f.p_value for f in decided.findings if isinstance(f, Evidence)]
    assert decided.p_value == 1 / 301
    assert own == [combination.p_value("confidence", 0.9), combination.p_value("network", 40.0)]


def test_shares_of_a_verdict() -> None:
    """A flagged item's findings carry what decided it, one together; one that is not flagged has no shares."""
    judge = Judge(PROFILE, false_positive_rate=0.05)
    flagged = judge.judge(Screening(1, (SURE, EXTREME, CERTIFIED), {}))
    scored = [f for f in flagged.findings if isinstance(f, Evidence)]
    shares = {f.detector: f.share or 0.0 for f in scored}
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["network"] > 0.99
    assert flagged.together is not None
    assert flagged.together.samples == len(PROFILE.reference)
    assert {f.samples for f in scored} == {len(PROFILE.reference)}
    clean = judge.judge(Screening(1, (SURE, ORDINARY, CERTIFIED), {}))
    assert clean.together is None
    assert {f.share for f in clean.findings if isinstance(f, Evidence)} == {None}


def realised_rates(n: int, rate: float, confidence: float | None) -> np.ndarray:
    """The judge's false-positive rates over 400 draws of `n` calibration samples.

    They are drawn from a finite population, of which the share that the judge flags is counted exactly.
    """
    rng = np.random.default_rng(1)
    population = drawn(10_000, rng)
    order = np.argsort(Combination(PROFILE).of_all(population))
    realised = []
    for _ in range(400):
        rows = rng.integers(0, len(population), n)
        calibration = benign(population.labels[rows], **{d: s[rows] for d, s in population.scores.items()})
        profile = a_profile(DETECTORS, PROFILE.reference, calibration)
        judge = Judge(profile, false_positive_rate=rate, confidence=confidence)
        realised.append(1 - _first_flagged(judge, population, order) / len(population))
    return np.array(realised)


@pytest.mark.parametrize(("n", "rate"), [(100, 0.05), (300, 0.1), (400, 0.01)])
def test_rate_holds_with_confidence(n: int, rate: float) -> None:
    """With a confidence of 95 %, the realised false-positive rate exceeds the one asked for in 5 % of draws at most."""
    realised = realised_rates(n, rate, 0.95)
    exceeded = int((realised > rate).sum())
    assert binomtest(exceeded, len(realised), 0.05, alternative="greater").pvalue > 1e-3
    assert realised.mean() > rate / 10, "and the guard does flag"


@pytest.mark.parametrize(("n", "rate"), [(99, 0.05), (300, 0.1), (150, 0.01)])
def test_rate_holds_on_average(n: int, rate: float) -> None:
    """Without one it is kept on average over draws, and comes as near as the number of samples allows."""
    realised = realised_rates(n, rate, None)
    error = realised.std() / math.sqrt(len(realised))
    assert rate - 1 / (n + 1) - 4 * error < realised.mean() < rate + 4 * error


def test_a_kind_of_benign_input_does_not_pay_for_others() -> None:
    """Where one kind of calibration sample is more suspicious, inputs as suspicious as most of it are let through."""
    calibration = drawn(2000, np.random.default_rng(6))
    groups = np.arange(2000) % 10 // 9
    scores = {name: values + 3 * groups for name, values in calibration.scores.items()}
    together = replace(calibration, scores=scores)
    alone = Judge(a_profile(DETECTORS, PROFILE.reference, together), false_positive_rate=0.05)
    apart = Judge(a_profile(DETECTORS, PROFILE.reference, replace(together, groups=groups)), false_positive_rate=0.05)
    assert alone.threshold > 2.5 * apart.threshold
    assert apart.threshold == pytest.approx(2 * 0.05 / 10, abs=0.004)
    item = Screening(0, tuple(Evidence(name, 4.5, 0) for name in scores), {})
    assert alone.judge(item).verdict is Verdict.ADVERSARIAL
    assert apart.judge(item).verdict is Verdict.CLEAN
    assert apart.judge(item).p_value == alone.judge(item).p_value


def _first_flagged(judge: Judge, population: BenignScores, order: np.ndarray) -> int:
    """By bisection, the place in `order` (least surprising first) from which on the judge flags."""
    low, high = 0, len(order)
    while low < high:
        middle = (low + high) // 2
        row = order[middle]
        findings = tuple(Evidence(d, float(s[row]), 0) for d, s in population.scores.items())
        if judge.judge(Screening(int(population.labels[row]), findings, {})).verdict is Verdict.ADVERSARIAL:
            high = middle
        else:
            low = middle + 1
    return low


@pytest.mark.parametrize("confidence", [None, 0.95])
@pytest.mark.parametrize("n", [1, 2, 3, 5, 23, 58, 99, 298, 1000, 4000])
def test_unsupported_rate_says_what_would_do(n: int, confidence: float | None) -> None:
    """A rate that the samples can't keep is refused; what the message says would do does, and less does not."""

    def judge(samples: int, rate: float) -> Judge:
        profile = a_profile(DETECTORS, PROFILE.reference, drawn(samples, np.random.default_rng(0)))
        return Judge(profile, false_positive_rate=rate, confidence=confidence)

    rate = 0.5 * stats.least_rate(n, confidence)
    with pytest.raises(RateUnsupported, match=f"the profile holds {n} calibration samples") as caught:
        judge(n, rate)
    said = re.search(r"needs (\d+); calibrate with more clean samples, or ask for (\S+) or more$", str(caught.value))
    assert said is not None
    needed, least = int(said[1]), float(said[2])
    assert judge(needed, rate).threshold > 0
    assert judge(n, least).threshold > 0
    with pytest.raises(RateUnsupported):
        judge(needed - 1, rate)
    if least > 2e-4:
        with pytest.raises(RateUnsupported):
            judge(n, least - 2e-4)


def test_no_calibration_samples() -> None:
    """A profile without calibration samples supports no rate."""
    with pytest.raises(RateUnsupported, match="holds 0 calibration samples"):
        Judge(a_profile(DETECTORS, PROFILE.reference, drawn(0, RNG)), false_positive_rate=0.5)


def test_detector_that_abstained_throughout_calibration() -> None:
    """A detector without a single benign score leaves the others to decide."""
    holes = {"confidence": np.full(300, np.nan), "network": PROFILE.reference.scores["network"]}
    scores = benign(PROFILE.reference.labels, **holes)
    judge = Judge(a_profile(DETECTORS, scores, scores), false_positive_rate=0.05)
    assert judge.judge(Screening(1, (FAR_TOO_SURE, ORDINARY), {})).verdict is Verdict.CLEAN
    assert judge.judge(Screening(1, (FAR_TOO_SURE, EXTREME), {})).verdict is Verdict.ADVERSARIAL
