"""What becomes of one message of a stream."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from guard.errors import GuardError, MalformedRequest
from guard.values import Action, Course
from guard.wire.answer import refuse
from guard.wire.decoupled import TransactionPolicies
from guard.wire.message import ParsedRequest, Split, parse, take_apart
from guard.wire.passage import Passage
from guard.wire.ports import WireMetrics
from guard.wire.request import Request
from guard.wire.status import refusal_trailers
from guard.wire.stream_messages import Asked
from guard.wire.upstream import Reply

MAX_NAME_CHARACTERS = 4096
"""Longest id of a request, and longest name and version of its model: they are kept until it is answered."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A message is forwarded as it was parsed, or answered by Guard. `asked` is empty where it could not be read.

    `decoupled` says whether its model is; None where the policy has no such model, or none is named.
    """

    asked: Asked
    outcome: ParsedRequest | Reply
    decoupled: asyncio.Task[bool] | None


class Judge:
    """Screens messages of one stream."""

    def __init__(self, passage: Passage, policies: TransactionPolicies, metrics: WireMetrics) -> None:
        self._passage = passage
        self._policies = policies
        self._metrics = metrics

    async def judge(self, request: Request, message: Split | GuardError) -> Judged:
        """Screen a message, unless there is an error already. For one that is only watched nobody waits."""
        asked, decoupled = Asked(), None
        try:
            if isinstance(message, GuardError):
                raise message
            parts = take_apart(message)
            asked = _checked(Asked.of(parts.header))
            request.model = asked.model
            course = self._passage.course(request, parts)
            asked = Asked.of(parts.header)  # its version may be another now
            decoupled = self._policies.of(asked.model)
            return Judged(asked, await self._screen(request, parse(parts), course), decoupled)
        except Exception as error:  # noqa: BLE001 - the boundary: every error becomes an answer
            request.marks = request.marks or refusal_trailers(request.id)
            return Judged(asked, refuse(error, self._metrics, request.id), decoupled)

    async def _screen(self, request: Request, parsed: ParsedRequest, course: Course) -> ParsedRequest | Reply:
        if course is Course.BEHIND:
            self._passage.watch(request, parsed)
            return parsed
        decision = await self._passage.screened(request, parsed)
        if decision.action is Action.REJECT:
            return self._passage.rejection(request, parsed, decision)
        return parsed


def _checked(asked: Asked) -> Asked:
    longest = max(len(asked.id), len(asked.model), len(asked.version))
    if longest > MAX_NAME_CHARACTERS:
        raise MalformedRequest(
            f"the request's id, or its model's name or version, has {longest} characters; a stream takes "
            f"{MAX_NAME_CHARACTERS} at most"
        )
    return asked
