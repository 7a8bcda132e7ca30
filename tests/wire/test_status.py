"""The table from decisions and errors to gRPC statuses."""

from __future__ import annotations

import re

import pytest
from grpc import StatusCode

from guard import errors
from guard.values import Action, Decision, Mode, UnscreenedReason, Verdict
from guard.wire.status import (
    MAX_LISTED_ITEMS,
    MAX_MESSAGE_CHARACTERS,
    Metadata,
    Status,
    of_error,
    of_rejection,
    refusal_trailers,
    trailers,
)
from tests.wire.parts import Decide

BAD, CLEAN = Verdict.ADVERSARIAL, Verdict.CLEAN
ID = "[guard_id=c-1]"


def rejection(decision: Decision, *, unverified: str = "") -> Status:
    """The status of a decision to reject."""
    return of_rejection(decision, unverified=unverified)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.MalformedRequest, StatusCode.INVALID_ARGUMENT),
        (errors.NonFiniteInput, StatusCode.INVALID_ARGUMENT),
        (errors.MethodDenied, StatusCode.PERMISSION_DENIED),
        (errors.ModelNotListed, StatusCode.PERMISSION_DENIED),
        (errors.Unsupported, StatusCode.UNIMPLEMENTED),
        (errors.MessageTooLarge, StatusCode.RESOURCE_EXHAUSTED),
        (errors.Overloaded, StatusCode.RESOURCE_EXHAUSTED),
        (errors.DeadlineExceeded, StatusCode.DEADLINE_EXCEEDED),
        (errors.UpstreamUnavailable, StatusCode.UNAVAILABLE),
    ],
)
def test_errors_meant_for_callers(error: type[errors.GuardError], code: StatusCode) -> None:
    """Errors about the request keep their message, also when a subclass is raised, and end in the call's id."""
    subclass = type("Special", (error,), {})
    for kind in (error, subclass):
        status = of_error(kind("what is wrong"), "c-1")
        assert (status.code, status.message) == (code, f"what is wrong {ID}")


@pytest.mark.parametrize("error", [errors.BackendTimeout("/secret"), errors.GuardError("/secret"), OSError("/secret")])
def test_other_errors_say_nothing(error: Exception) -> None:
    """All other errors are INTERNAL, and leak none of their text; the id says which lines of the log to read."""
    status = of_error(error, "c-1")
    assert status.code is StatusCode.INTERNAL
    assert status.message.endswith(f"its log has the cause {ID}")
    assert "/secret" not in status.message


def test_long_messages_are_cut() -> None:
    """A message that quotes a client's megabyte stays small enough for a gRPC status, and keeps its id."""
    message = of_error(errors.MalformedRequest("x" * 10**6), "c-1").message
    assert message == f"{'x' * MAX_MESSAGE_CHARACTERS} {ID}"


def test_refusals_have_the_id_in_trailers() -> None:
    """Clients that read trailers find the id of a refusal where that of a verdict is."""
    assert refusal_trailers("c-1") == (("guard-id", "c-1"),)


@pytest.mark.parametrize(
    ("verdict", "reason", "code"),
    [
        (Verdict.ADVERSARIAL, None, StatusCode.PERMISSION_DENIED),
        (Verdict.ABSTAIN, None, StatusCode.PERMISSION_DENIED),
        (Verdict.UNSCREENED, UnscreenedReason.OVERLOAD, StatusCode.RESOURCE_EXHAUSTED),
        (Verdict.UNSCREENED, UnscreenedReason.CLIENT_DEADLINE, StatusCode.DEADLINE_EXCEEDED),
        (Verdict.UNSCREENED, UnscreenedReason.DEADLINE, StatusCode.UNAVAILABLE),
        (Verdict.UNSCREENED, UnscreenedReason.OTHER_SHAPE, StatusCode.PERMISSION_DENIED),
        (Verdict.UNSCREENED, UnscreenedReason.FAULT, StatusCode.UNAVAILABLE),
        (Verdict.UNSCREENED, UnscreenedReason.UNVERIFIED, StatusCode.UNAVAILABLE),
        (Verdict.UNSCREENED, None, StatusCode.UNAVAILABLE),
    ],
)
def test_rejections(decide: Decide, verdict: Verdict, reason: UnscreenedReason | None, code: StatusCode) -> None:
    """Each verdict and reason has its code; the message names verdict and id, and no score."""
    status = rejection(decide(verdict, Action.REJECT, reason=reason))
    assert status.code is code
    assert status.message.startswith("rejected by guard: ")
    assert re.search(rf"\[guard_verdict={verdict} guard_id=d-1( guard_items=0)?\]$", status.message)
    assert ("guard_items" in status.message) is (verdict is not Verdict.UNSCREENED)
    assert "0.123456" not in status.message


@pytest.mark.parametrize("why", ["the server at a:1 does not answer", ""])
def test_why_a_model_is_not_verified(decide: Decide, why: str) -> None:
    """A client is told why the model is not verified; one that was verified meanwhile is told to try again."""
    decision = decide(Verdict.UNSCREENED, Action.REJECT, reason=UnscreenedReason.UNVERIFIED)
    message = rejection(decision, unverified=why).message
    assert message.startswith(
        f"rejected by guard: {why or 'the served model was not verified until this moment; retry'} ["
    )


NEVER_REJECTED = {UnscreenedReason.UNLISTED_MODEL, UnscreenedReason.INVALID_INPUT}


@pytest.mark.parametrize("reason", sorted(set(UnscreenedReason) - NEVER_REJECTED))
def test_every_reason_has_a_status(decide: Decide, reason: UnscreenedReason) -> None:
    """A reason added to the closed set can't be forgotten here."""
    assert rejection(decide(Verdict.UNSCREENED, Action.REJECT, reason=reason)).code is not StatusCode.INTERNAL


@pytest.mark.parametrize(
    ("items", "prose", "marks"),
    [
        ((BAD,), "adversarial input at item 0 of 1 [", "guard_items=0]"),
        ((CLEAN, BAD, BAD), "adversarial input at items 1, 2 of 3 [", "guard_items=1,2]"),
        (
            (BAD,) * 40,
            f"15 and {40 - MAX_LISTED_ITEMS} more of 40 [",
            f"guard_items={','.join(map(str, range(MAX_LISTED_ITEMS)))} guard_items_omitted=24]",
        ),
    ],
)
def test_items_are_named(decide: Decide, items: tuple[Verdict, ...], prose: str, marks: str) -> None:
    """The items at fault are listed, up to a bound, over which they are counted."""
    message = rejection(decide(BAD, Action.REJECT, items=items)).message
    assert prose in message
    assert message.endswith(marks)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        (Mode.SHADOW, ()),
        (Mode.FLAG, (("guard-verdict", "abstain"), ("guard-id", "d-1"), ("guard-items", "0"))),
        (Mode.ENFORCE, (("guard-verdict", "abstain"), ("guard-id", "d-1"), ("guard-items", "0"))),
    ],
)
def test_trailers(decide: Decide, mode: Mode, expected: Metadata) -> None:
    """Verdict, id and items are in the trailers, but not in shadow mode."""
    assert trailers(decide(Verdict.ABSTAIN, Action.FORWARD, mode=mode)) == expected
