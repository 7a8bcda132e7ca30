"""Requests that somebody else carries to the guarded server: they go through the one passage, and are handed back."""

from __future__ import annotations

from collections.abc import Sequence

import grpc

from guard.config import Settings
from guard.wire.passage import Passage
from guard.wire.ports import Auditor, Screener, Tracer, WireMetrics
from guard.wire.room import Room
from guard.wire.upstream import Call, Reply


class _Carrier:
    """Stands where the upstream does: what would be sent to it is the answer."""

    async def call(self, call: Call) -> Reply:
        return Reply(grpc.StatusCode.OK, body=call.message)


def handover(
    screener: Screener,
    settings: Settings,
    metrics: WireMetrics,
    room: Room,
    auditors: Sequence[Auditor],
    *,
    tracer: Tracer | None,
) -> Passage:
    """A passage whose answer is the request as it has to be sent on, or why it must not be.

    `room` bounds what this and other passages hold together.
    """
    return Passage(screener, _Carrier(), settings, metrics, auditors, tracer=tracer, room=room, marks_answers=False)
