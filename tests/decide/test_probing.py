"""with_probing: what a client's behaviour adds to a verdict, by policy."""

from __future__ import annotations

import pytest

from guard.decide.probing import with_probing
from guard.values import Evidence, Fault, FaultReason, ItemDecision, Probing, UnscreenedReason, Verdict

HARMLESS = Probing("queries", of_client=1, of_everyone=2, suspicious=False)
SUSPICIOUS = Probing("queries", of_client=5, of_everyone=5, suspicious=True)
EVIDENCE = Evidence("confidence", 1.0, 1, p_value=0.5)


def item(verdict: Verdict) -> ItemDecision:
    """A judged item."""
    reason = UnscreenedReason.OVERLOAD if verdict is Verdict.UNSCREENED else None
    return ItemDecision(verdict, 0.5, (EVIDENCE,), reason)


@pytest.mark.parametrize("verdict", Verdict)
@pytest.mark.parametrize("finding", [HARMLESS, SUSPICIOUS, Fault("queries", FaultReason.DETECTOR)])
def test_a_report_changes_no_verdict(verdict: Verdict, finding: Probing | Fault) -> None:
    """Where the policy reports, the finding stands beside the others, and nothing else changes."""
    noted = with_probing(item(verdict), finding, reject=False)
    assert (noted.verdict, noted.p_value, noted.reason) == (verdict, 0.5, item(verdict).reason)
    assert noted.findings == (EVIDENCE, finding)


@pytest.mark.parametrize("verdict", [Verdict.CLEAN, Verdict.ABSTAIN, Verdict.UNSCREENED])
def test_suspicious_queries_are_rejected(verdict: Verdict) -> None:
    """Where the policy rejects, probing makes an item adversarial; its p-value stays what the detectors found."""
    condemned = with_probing(item(verdict), SUSPICIOUS, reject=True)
    assert (condemned.verdict, condemned.p_value, condemned.reason) == (Verdict.ADVERSARIAL, 0.5, None)
    (finding,) = [each for each in condemned.findings if isinstance(each, Probing)]
    assert finding.condemns


def test_other_detectors_come_first() -> None:
    """An item that is adversarial by itself isn't charged to behaviour."""
    (_, finding) = with_probing(item(Verdict.ADVERSARIAL), SUSPICIOUS, reject=True).findings
    assert finding == SUSPICIOUS


@pytest.mark.parametrize("verdict", Verdict)
def test_harmless_queries(verdict: Verdict) -> None:
    """A few near-duplicates change no verdict."""
    assert with_probing(item(verdict), HARMLESS, reject=True).verdict is verdict


@pytest.mark.parametrize(
    ("verdict", "fault", "expected"),
    [
        (Verdict.CLEAN, FaultReason.DETECTOR, (Verdict.UNSCREENED, UnscreenedReason.FAULT)),
        (Verdict.ABSTAIN, FaultReason.DEADLINE, (Verdict.UNSCREENED, UnscreenedReason.DEADLINE)),
        (Verdict.UNSCREENED, FaultReason.DETECTOR, (Verdict.UNSCREENED, UnscreenedReason.OVERLOAD)),
        (Verdict.ADVERSARIAL, FaultReason.DETECTOR, (Verdict.ADVERSARIAL, None)),
    ],
)
def test_what_could_not_be_compared(
    verdict: Verdict, fault: FaultReason, expected: tuple[Verdict, UnscreenedReason | None]
) -> None:
    """Where the policy rejects, a memory that failed leaves no item clean."""
    noted = with_probing(item(verdict), Fault("queries", fault), reject=True)
    assert (noted.verdict, noted.reason) == expected
