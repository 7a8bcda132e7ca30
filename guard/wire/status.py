"""The one table from Guard's decisions and errors to what a gRPC caller sees.

No score, p-value or exception text of a library is in any answer: they would be an attacker's oracle, or a leak.
PERMISSION_DENIED means that Guard said no (Triton never answers it), RESOURCE_EXHAUSTED that it is overloaded and
UNAVAILABLE that it could not look and the policy fails closed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from grpc import StatusCode

from guard.errors import (
    DeadlineExceeded,
    GuardError,
    MalformedRequest,
    MessageTooLarge,
    MethodDenied,
    ModelNotListed,
    NonFiniteInput,
    Overloaded,
    RequestTooSlow,
    Unsupported,
    UpstreamUnavailable,
)
from guard.values import Decision, Mode, UnscreenedReason, Verdict

Metadata = tuple[tuple[str, str | bytes], ...]

APPROXIMATE = "guard_approximate"
"""Guard decoded an image itself, and the server may see others."""

MAX_LISTED_ITEMS = 16
"""Items named in a message and in trailers. gRPC clients bound the size of a status; the rest are counted."""

MAX_MESSAGE_CHARACTERS = 1024
"""Longest message of an error, without its id: it may quote names that the client chose."""

_ERRORS: Mapping[type[GuardError], StatusCode] = MappingProxyType(
    {
        MalformedRequest: StatusCode.INVALID_ARGUMENT,
        NonFiniteInput: StatusCode.INVALID_ARGUMENT,
        MethodDenied: StatusCode.PERMISSION_DENIED,
        ModelNotListed: StatusCode.PERMISSION_DENIED,
        Unsupported: StatusCode.UNIMPLEMENTED,
        MessageTooLarge: StatusCode.RESOURCE_EXHAUSTED,
        Overloaded: StatusCode.RESOURCE_EXHAUSTED,
        DeadlineExceeded: StatusCode.DEADLINE_EXCEEDED,
        RequestTooSlow: StatusCode.DEADLINE_EXCEEDED,
        UpstreamUnavailable: StatusCode.UNAVAILABLE,
    }
)

# Why a rejected request was unscreened. The other reasons never reject: the policy lets models that it doesn't name
# pass, or they are refused, and input that can't be understood is refused in every mode that rejects.
_UNSCREENED: Mapping[UnscreenedReason, tuple[StatusCode, str]] = MappingProxyType(
    {
        UnscreenedReason.OVERLOAD: (StatusCode.RESOURCE_EXHAUSTED, "guard is overloaded; retry with backoff"),
        UnscreenedReason.CLIENT_DEADLINE: (
            StatusCode.DEADLINE_EXCEEDED,
            "the request's deadline left too little time to screen it",
        ),
        UnscreenedReason.DEADLINE: (StatusCode.UNAVAILABLE, "screening took longer than allowed; retry with backoff"),
        UnscreenedReason.OTHER_SHAPE: (
            StatusCode.PERMISSION_DENIED,
            "the input has another shape than the ones that guard was calibrated with; resize it to those",
        ),
        UnscreenedReason.FAULT: (StatusCode.UNAVAILABLE, "the request could not be screened; retry with backoff"),
    }
)


@dataclass(frozen=True, slots=True)
class Status:
    """What a gRPC caller sees of a call that did not succeed."""

    code: StatusCode
    message: str


def of_error(error: Exception, call_id: str) -> Status:
    """The status of a call that ended in `error`. Errors that aren't in the table are INTERNAL and say nothing.

    The message ends in `[guard_id=...]`, as that of a rejection does.
    """
    code, what = StatusCode.INTERNAL, "guard failed to handle the request; its log has the cause"
    for kind in type(error).__mro__:
        if kind in _ERRORS:
            code, what = _ERRORS[kind], str(error)[:MAX_MESSAGE_CHARACTERS]
            break
    return Status(code, f"{what} [guard_id={call_id}]")


def of_rejection(decision: Decision, *, unverified: str) -> Status:
    """The status of a request that the policy rejects.

    The message ends in `[guard_verdict=... guard_id=... guard_items=...]` for programs: tritonclient shows its
    callers nothing but code and message. Items are counted from 0. `unverified` says why the model is not verified,
    should that be the reason.
    """
    code, what = _rejected(decision, unverified)
    marks = " ".join(f"{name}={value}" for name, value in marks_of(decision, most_items=MAX_LISTED_ITEMS))
    return Status(code, f"rejected by guard: {what} [{marks}]")


def marks_of(decision: Decision, *, most_items: int | None = None) -> tuple[tuple[str, str], ...]:
    """What a caller is told of a decision, by name: the verdict, the id, and where that isn't all, the rest.

    `guard_items` are those that the verdict is about, `most_items` at most, and `guard_items_omitted` counts the
    others. Nobody is blamed for what is clean, or was not looked at.
    """
    marks = [("guard_verdict", str(decision.verdict)), ("guard_id", decision.id)]
    culprits = () if decision.verdict in {Verdict.CLEAN, Verdict.UNSCREENED} else decision.culprits
    if culprits:
        listed = culprits[:most_items]
        marks.append(("guard_items", ",".join(map(str, listed))))
        if len(culprits) > len(listed):
            marks.append(("guard_items_omitted", str(len(culprits) - len(listed))))
    if decision.approximate:
        marks.append((APPROXIMATE, "true"))
    return tuple(marks)


def trailers(decision: Decision) -> Metadata:
    """Trailing metadata that repeats the marks, for clients that read it. None in shadow mode."""
    if decision.mode is Mode.SHADOW:
        return ()
    marks = marks_of(decision, most_items=MAX_LISTED_ITEMS)
    return tuple((name.replace("_", "-"), value) for name, value in marks)


def refusal_trailers(call_id: str) -> Metadata:
    """Trailing metadata that repeats the id of a call that Guard refused."""
    return (("guard-id", call_id),)


def _rejected(decision: Decision, unverified: str) -> tuple[StatusCode, str]:
    if decision.verdict is Verdict.UNSCREENED:
        reason = decision.reason or UnscreenedReason.FAULT
        if reason is UnscreenedReason.UNVERIFIED:
            return StatusCode.UNAVAILABLE, unverified or "the served model was not verified until this moment; retry"
        return _UNSCREENED[reason]
    if decision.verdict is Verdict.ABSTAIN:
        return StatusCode.PERMISSION_DENIED, f"the detectors could not judge {_items(decision)}"
    return StatusCode.PERMISSION_DENIED, f"{decision.verdict} input at {_items(decision)}"


def _items(decision: Decision) -> str:
    """For example `item 3 of 8`, or `items 0, 2 and 5 more of 8`."""
    listed, omitted = _listed(decision)
    more = f" and {omitted} more" if omitted else ""
    return f"{'item' if len(listed) == 1 else 'items'} {', '.join(listed)}{more} of {len(decision.items)}"


def _listed(decision: Decision) -> tuple[list[str], int]:
    culprits = decision.culprits
    return [str(index) for index in culprits[:MAX_LISTED_ITEMS]], max(0, len(culprits) - MAX_LISTED_ITEMS)
