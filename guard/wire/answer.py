"""A call's id, and how calls end: with the upstream's reply, or with an error of Guard's own."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import grpc
import structlog
from structlog.contextvars import bound_contextvars

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


def client_of(context: Context) -> str:
    """Whose call it is: the address without the port, which changes with each connection."""
    return str(context.peer()).rpartition(":")[0]


@contextmanager
def identified() -> Iterator[str]:
    """Draw the id of a call. It is in each line that is logged while the context lasts."""
    call_id = uuid.uuid4().hex
    with bound_contextvars(decision_id=call_id):
        yield call_id


def refuse(error: Exception, metrics: WireMetrics, call_id: str) -> Reply:
    """The reply to a call that ended in an error, which is counted and logged."""
    answer = status.of_error(error, call_id)
    if answer.code is grpc.StatusCode.INTERNAL:
        _log.error("request failed", exc_info=error)
    else:
        _log.info("request refused", code=answer.code.name, reason=str(error)[: status.MAX_MESSAGE_CHARACTERS])
    metrics.request_refused(error.code if isinstance(error, GuardError) else "internal")
    return Reply(answer.code, answer.message)


async def send(context: Context, reply: Reply, marks: Metadata = ()) -> bytes:
    """End the call with `reply`. `marks` are Guard's trailers; they replace any by their name."""
    if reply.initial_metadata:
        await context.send_initial_metadata(reply.initial_metadata)
    marked = {key for key, _ in marks}
    trailing = (*(pair for pair in reply.trailing_metadata if pair[0] not in marked), *marks)
    if reply.code is not grpc.StatusCode.OK:
        try:
            await context.abort(reply.code, reply.details, trailing)
        except grpc.aio.InternalError as error:
            # gRPC ended the call before, as it does where a message is over its own limit: nobody waits for this one.
            raise asyncio.CancelledError from error
    context.set_trailing_metadata(trailing)
    return reply.body
