"""What Guard says to its clients, read: marks on answers and in messages. `wire/status.py` writes the latter."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from guard.client.errors import AdversarialInputRejected, CallFailed, DeadlinePassed, InputRejected, NotGuarded
from guard.client.values import Answer, Screened
from guard.values import Action, Verdict

REFUSED: Final = "PERMISSION_DENIED"
_DEADLINE: Final = "DEADLINE_EXCEEDED"
_OVERLOADED: Final = "RESOURCE_EXHAUSTED"
_UNAVAILABLE: Final = "UNAVAILABLE"
_RETRY: Final = "retry with backoff"
"""What Guard says where it is overloaded. Too large a message has the same status, and is too large again."""

_MARKS: Final = re.compile(r"\s*\[((?:guard_\w+=\S+\s*)+)\]\s*$")
_OF_HTTP: Final = {
    "400": "INVALID_ARGUMENT",
    "401": "UNAUTHENTICATED",
    "403": REFUSED,
    "404": "NOT_FOUND",
    "408": _DEADLINE,
    "413": _OVERLOADED,
    "429": _OVERLOADED,
    "501": "UNIMPLEMENTED",
    "503": _UNAVAILABLE,
    "504": _DEADLINE,
}


def failure(status: str | None, message: str | None) -> InputRejected | CallFailed:
    """The error that a status of gRPC or HTTP means, as tritonclient shows it, with what the message says of it."""
    known = (status or "").removeprefix("StatusCode.")
    known = _OF_HTTP.get(known, "UNKNOWN" if known.isdecimal() else known or "UNKNOWN")
    text, marks = _parted(message or "")
    if known == REFUSED and (verdict := _known(marks.get("guard_verdict"))) is not None:
        kind = AdversarialInputRejected if verdict is Verdict.ADVERSARIAL else InputRejected
        return kind(
            text.removeprefix("rejected by guard: "),
            id=marks.get("guard_id", ""),
            verdict=verdict,
            items=_items(marks.get("guard_items", "")),
            items_omitted=sum(_items(marks.get("guard_items_omitted", ""))),
            approximate="guard_approximate" in marks,
        )
    if known == _DEADLINE:
        return DeadlinePassed(text, id=marks.get("guard_id"))
    return CallFailed(known, text, id=marks.get("guard_id"))


def unreachable(error: BaseException) -> CallFailed:
    """The error that means that a connection was not made, or broke."""
    return CallFailed(_UNAVAILABLE, str(error) or type(error).__name__)


def repeatable(error: CallFailed) -> bool:
    """Whether a call that failed like this may be made again: another attempt may find another state of things."""
    return error.status == _UNAVAILABLE or (error.status == _OVERLOADED and _RETRY in error.message)


def answer(result: Any, parameters: Mapping[str, Any], *, required: bool) -> Answer:
    """A result with its verdict.

    Raises:
        NotGuarded: it has none, and is required to.
    """
    verdict = _verdict(parameters, required=required)
    return Answer(
        result,
        verdict,
        parameters.get("guard_id"),
        bool(parameters.get("guard_approximate", False)),
        _items(parameters.get("guard_items", "")),
    )


def screened(parameters: Mapping[str, Any], *, required: bool) -> Screened:
    """The answer to a request for a verdict alone.

    Raises:
        NotGuarded: it has none, and is required to.
    """
    verdict, action = _verdict(parameters, required=required), parameters.get("guard_action")
    return Screened(
        verdict,
        None if action is None else Action(action),
        _items(parameters.get("guard_items", "")),
        parameters.get("guard_id"),
        executed="guard_screen_only" not in parameters,
    )


def _verdict(parameters: Mapping[str, Any], *, required: bool) -> Verdict | None:
    said = _known(parameters.get("guard_verdict"))
    if said is None and required:
        raise NotGuarded(
            "the answer has no verdict: the address leads to a server without Guard, or its Guard is in shadow mode; "
            "call Guard's address, or leave out require_verdict"
        )
    return said


def _known(said: str | None) -> Verdict | None:
    """A verdict; None for what only a server of another kind could mean by that name."""
    return next((verdict for verdict in Verdict if verdict == said), None)


def _parted(message: str) -> tuple[str, dict[str, str]]:
    """A message without its marks, and these."""
    found = _MARKS.search(message)
    if found is None:
        return message, {}
    return message[: found.start()], dict(pair.split("=", 1) for pair in found[1].split())


def _items(listed: object) -> tuple[int, ...]:
    """Numbers in a list; a server of another kind could mean anything by that name."""
    return tuple(int(item) for item in str(listed).split(",") if item.isascii() and item.isdecimal())
