"""What Guard's messages and marks mean to the SDK, held against those that Guard writes."""

from __future__ import annotations

from dataclasses import replace
from http import HTTPStatus

import pytest
from grpc import StatusCode

from guard.client import AdversarialInputRejected, CallFailed, DeadlinePassed, InputRejected, NotGuarded, reading
from guard.errors import MessageTooLarge, Overloaded, UpstreamUnavailable
from guard.values import Action, Decision, ItemDecision, Mode, UnscreenedReason, Verdict
from guard.wire import status
from guard.wire.rest.statuses import of_reply
from guard.wire.upstream import Reply


def rejected(verdict: Verdict, *items: Verdict, reason: UnscreenedReason | None = None) -> Decision:
    """A decision that rejects a batch."""
    judged = tuple(ItemDecision(item, 0.01, ()) for item in items)
    return Decision("ab12", "m", Mode.ENFORCE, verdict, 0.01, Action.REJECT, Action.REJECT, judged, reason)


def rejection(verdict: Verdict, *items: Verdict, reason: UnscreenedReason | None = None) -> status.Status:
    """What Guard answers where it rejects a batch."""
    return status.of_rejection(rejected(verdict, *items, reason=reason), unverified="")


def seen(answer: status.Status, protocol: str) -> InputRejected | CallFailed:
    """The error that the SDK makes of it."""
    shown = f"StatusCode.{answer.code.name}" if protocol == "grpc" else str(int(of_reply(Reply(answer.code))))
    return reading.failure(shown, answer.message)


@pytest.mark.parametrize("protocol", ["grpc", "http"])
class TestFailures:
    """Guard's own messages, by either protocol."""

    def test_adversarial(self, protocol: str) -> None:
        """A rejection names its verdict, its items, its decision and its reason."""
        batch = [Verdict.CLEAN, Verdict.ADVERSARIAL, Verdict.CLEAN, Verdict.ADVERSARIAL]
        error = seen(rejection(Verdict.ADVERSARIAL, *batch), protocol)
        assert isinstance(error, AdversarialInputRejected)
        assert (error.id, error.items, error.items_omitted, error.verdict) == ("ab12", (1, 3), 0, "adversarial")
        assert error.reason == "adversarial input at items 1, 3 of 4"
        assert str(error) == "adversarial input at items 1, 3 of 4 (decision ab12)"

    def test_approximate(self, protocol: str) -> None:
        """A rejection says where Guard decoded an image itself."""
        decision = rejected(Verdict.ADVERSARIAL, Verdict.ADVERSARIAL)
        for approximate in (True, False):
            answer = status.of_rejection(replace(decision, approximate=approximate), unverified="")
            error = seen(answer, protocol)
            assert isinstance(error, InputRejected)
            assert (error.approximate, error.items) == (approximate, (0,))

    def test_many_items(self, protocol: str) -> None:
        """Where Guard names some items and counts the rest, so does the error."""
        error = seen(rejection(Verdict.ADVERSARIAL, *[Verdict.ADVERSARIAL] * 20), protocol)
        assert isinstance(error, AdversarialInputRejected)
        assert (error.items, error.items_omitted) == (tuple(range(16)), 4)

    def test_abstention(self, protocol: str) -> None:
        """An input that could not be judged is rejected, but nobody called it adversarial."""
        error = seen(rejection(Verdict.ABSTAIN, Verdict.ABSTAIN), protocol)
        assert type(error) is InputRejected
        assert (error.verdict, error.items) == ("abstain", (0,))

    def test_overloaded(self, protocol: str) -> None:
        """What could not be screened may be tried again: it is the call that failed."""
        for answer in (
            rejection(Verdict.UNSCREENED, Verdict.UNSCREENED, reason=UnscreenedReason.OVERLOAD),
            rejection(Verdict.UNSCREENED, Verdict.UNSCREENED, reason=UnscreenedReason.FAULT),
            status.of_error(Overloaded("the queue is full; retry with backoff"), "ab12"),
            status.of_error(UpstreamUnavailable("can't reach the upstream"), "ab12"),
        ):
            error = seen(answer, protocol)
            assert isinstance(error, CallFailed)
            assert (reading.repeatable(error), error.id) == (True, "ab12"), error

    def test_too_large(self, protocol: str) -> None:
        """A message that is too large has gRPC's status of overload, and is too large again."""
        error = seen(status.of_error(MessageTooLarge("the request has 9 bytes, more than 8"), "ab12"), protocol)
        assert isinstance(error, CallFailed)
        assert (error.status, reading.repeatable(error)) == ("RESOURCE_EXHAUSTED", False)


@pytest.mark.parametrize("code", StatusCode)
def test_statuses_mean_the_same(code: StatusCode) -> None:
    """A failure is repeated over HTTP where it is over gRPC, and no other."""
    over_http = reading.failure(str(int(of_reply(Reply(code)))), "why; retry with backoff")
    over_grpc = reading.failure(str(code), "why; retry with backoff")
    assert isinstance(over_http, CallFailed)
    assert isinstance(over_grpc, CallFailed)
    assert (
        reading.repeatable(over_http)
        == reading.repeatable(over_grpc)
        == (code.name in {"UNAVAILABLE", "RESOURCE_EXHAUSTED"})
    )
    assert isinstance(over_http, DeadlinePassed) == (code is StatusCode.DEADLINE_EXCEEDED)


def test_foreign_messages() -> None:
    """A server's own refusal is no rejection of Guard's, whatever brackets it has."""
    for message in ("no", "no [guard]", "[x=1]", "", None):
        error = reading.failure(str(int(HTTPStatus.FORBIDDEN)), message)
        assert isinstance(error, CallFailed)
        assert (error.status, error.message, error.id) == ("PERMISSION_DENIED", message or "", None)
    assert str(reading.failure(None, "closed")) == "UNKNOWN: closed"


def test_unknown_marks() -> None:
    """Marks that no Guard writes are no rejection, and don't break the reader."""
    error = reading.failure("403", "no [guard_verdict=foul guard_id=1 guard_items=x,2]")
    assert isinstance(error, CallFailed)
    assert (error.message, error.id) == ("no", "1")
    assert reading.answer("result", {"guard_verdict": "foul"}, required=False).verdict is None


def test_items_of_an_answer() -> None:
    """A flagged answer says which items of the batch it is about; what another server means by the name is no list."""
    decision = rejected(Verdict.ADVERSARIAL, *[Verdict.CLEAN, Verdict.ADVERSARIAL] * 40)
    answer = reading.answer("result", dict(status.marks_of(decision)), required=True)
    assert (answer.verdict, answer.id, answer.items) == ("adversarial", "ab12", tuple(range(1, 80, 2)))
    assert not answer.approximate
    assert reading.answer("result", {"guard_verdict": "clean", "guard_id": "1"}, required=True).items == ()
    assert reading.answer("result", {"guard_items": ["x"]}, required=False).items == ()


def test_no_verdict() -> None:
    """An answer without a verdict has None; where one is required, that is an error which says what to do."""
    assert reading.answer("result", {}, required=False).verdict is None
    assert reading.screened({}, required=False).executed
    with pytest.raises(NotGuarded, match="call Guard's address, or leave out require_verdict"):
        reading.answer("result", {}, required=True)
    with pytest.raises(NotGuarded):
        reading.screened({}, required=True)
