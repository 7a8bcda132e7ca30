"""How calls end: the upstream's reply, or an error of Guard's own, put on the wire."""

from __future__ import annotations

from typing import Any, TypeAlias

import grpc
import structlog

from guard.errors import GuardError
from guard.wire import status
from guard.wire.ports import WireMetrics
from guard.wire.status import Metadata
from guard.wire.upstream import Reply

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

_NO_DEADLINE_S = 366 * 24 * 3600.0
"""Clients without a deadline show one of centuries in some gRPC versions."""

_log = structlog.get_logger(__name__)


def deadline_s(context: Context) -> float | None:
    """Seconds until the client stops waiting, None if it does not."""
    # grpc-stubs leaves out that there may be no deadline.
    remaining_s: float | None = context.time_remaining()
    return None if remaining_s is None or remaining_s > _NO_DEADLINE_S else remaining_s


def refuse(error: Exception, metrics: WireMetrics) -> Reply:
    """The reply to a call that ended in an error. One that Guard didn't raise on purpose is logged."""
    answer = status.of_error(error)
    if answer.code is grpc.StatusCode.INTERNAL:
        _log.error("request failed", exc_info=error)
    else:
        _log.info("request refused", code=answer.code.name, reason=answer.message)
    metrics.request_refused(error.code if isinstance(error, GuardError) else "internal")
    return Reply(answer.code, answer.message)


async def send(context: Context, reply: Reply, marks: Metadata = ()) -> bytes:
    """End the call with `reply`. `marks` are Guard's trailers; they replace any by their name."""
    if reply.initial_metadata:
        await context.send_initial_metadata(reply.initial_metadata)
    marked = {key for key, _ in marks}
    trailing = (*(pair for pair in reply.trailing_metadata if pair[0] not in marked), *marks)
    if reply.code is not grpc.StatusCode.OK:
        await context.abort(reply.code, reply.details, trailing)
    context.set_trailing_metadata(trailing)
    return reply.body
