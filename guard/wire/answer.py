"""A call's id, and how calls end: with the upstream's reply, or with an error of Guard's own."""

from __future__ import annotations

import asyncio
import secrets
from typing import Any, TypeAlias

import grpc
import structlog
from structlog.contextvars import bind_contextvars, reset_contextvars

from guard.errors import GuardError
from guard.wire import status
from guard.wire.ports import WireMetrics
from guard.wire.receive import Packing
from guard.wire.status import Metadata
from guard.wire.tls import certificate_name
from guard.wire.upstream import Reply

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

_ID_BYTES = 16
_NO_DEADLINE_S = 366 * 24 * 3600.0
"""Clients without a deadline show one of centuries in some gRPC versions."""

MAX_COMPRESSED_BYTES = 64 * 1024
"""Larger answers go as they are: gRPC compresses on the event loop, and takes ten milliseconds for so many bytes."""

_log = structlog.get_logger(__name__)


def deadline_s(context: Context) -> float | None:
    """Seconds until the client stops waiting, None if it does not."""
    # grpc-stubs leaves out that there may be no deadline.
    remaining_s: float | None = context.time_remaining()
    return None if remaining_s is None or remaining_s > _NO_DEADLINE_S else remaining_s


def client_of(context: Context) -> str:
    """Whose call it is: what its certificate names, where clients show one, and else where it comes from.

    An address has a port that changes with each connection, which is left off. All that use a Unix socket are one.
    """
    identities = context.peer_identities()
    if identities:
        return certificate_name(each.decode(errors="replace") for each in identities)
    return str(context.peer()).rpartition(":")[0]


class identified:  # noqa: N801 - read as a verb, like the context managers of contextlib
    """Draws the id of a call. It is in each line that is logged while the context lasts."""

    __slots__ = ("_before",)

    def __enter__(self) -> str:
        call_id = secrets.token_hex(_ID_BYTES)
        # `bound_contextvars` would walk through all variables of the context first.
        self._before = bind_contextvars(decision_id=call_id)
        return call_id

    def __exit__(self, *_: object) -> None:
        reset_contextvars(**self._before)


def refuse(error: Exception, metrics: WireMetrics, call_id: str) -> Reply:
    """The reply to a call that ended in an error, which is counted and logged."""
    answer = status.of_error(error, call_id)
    if answer.code is grpc.StatusCode.INTERNAL:
        _log.error("request failed", exc_info=error)
    else:
        _log.info("request refused", code=answer.code.name, reason=str(error)[: status.MAX_MESSAGE_CHARACTERS])
    metrics.request_refused(error.code if isinstance(error, GuardError) else "internal")
    return Reply(answer.code, answer.message, cause=type(error))


async def send(context: Context, reply: Reply, marks: Metadata = (), packing: Packing | None = None) -> bytes:
    """End the call with `reply`. `marks` are Guard's trailers; they replace any by their name.

    `packing` is how the request came: the answer goes likewise, unless it is large.
    """
    compression = packing.compression if packing else grpc.Compression.NoCompression
    compressed = compression is not grpc.Compression.NoCompression and 0 < len(reply.body) <= MAX_COMPRESSED_BYTES
    if compressed:
        context.set_compression(compression)
    if reply.initial_metadata or compressed:  # it tells of the compression only where it is sent by itself
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
