"""The one table from how a call ended to an HTTP status. `wire/status.py` has how it ends.

Where Triton's HTTP server has a status for the same error, it is that one.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from types import MappingProxyType

from grpc import StatusCode

from guard.errors import MessageTooLarge, RequestTooSlow, UnknownPath, WrongMethod
from guard.wire.rest.reply import Headers, HttpReply, error
from guard.wire.status import Metadata
from guard.wire.upstream import Reply

_BY_CODE: Mapping[StatusCode, HTTPStatus] = MappingProxyType(
    {
        StatusCode.OK: HTTPStatus.OK,
        StatusCode.CANCELLED: HTTPStatus.BAD_REQUEST,
        StatusCode.UNKNOWN: HTTPStatus.INTERNAL_SERVER_ERROR,
        StatusCode.INVALID_ARGUMENT: HTTPStatus.BAD_REQUEST,
        StatusCode.DEADLINE_EXCEEDED: HTTPStatus.GATEWAY_TIMEOUT,
        StatusCode.NOT_FOUND: HTTPStatus.NOT_FOUND,
        StatusCode.ALREADY_EXISTS: HTTPStatus.BAD_REQUEST,
        StatusCode.PERMISSION_DENIED: HTTPStatus.FORBIDDEN,
        StatusCode.UNAUTHENTICATED: HTTPStatus.UNAUTHORIZED,
        StatusCode.RESOURCE_EXHAUSTED: HTTPStatus.TOO_MANY_REQUESTS,
        StatusCode.FAILED_PRECONDITION: HTTPStatus.BAD_REQUEST,
        StatusCode.ABORTED: HTTPStatus.CONFLICT,
        StatusCode.OUT_OF_RANGE: HTTPStatus.BAD_REQUEST,
        StatusCode.UNIMPLEMENTED: HTTPStatus.NOT_IMPLEMENTED,
        StatusCode.INTERNAL: HTTPStatus.INTERNAL_SERVER_ERROR,
        StatusCode.UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
        StatusCode.DATA_LOSS: HTTPStatus.INTERNAL_SERVER_ERROR,
    }
)

# Where HTTP tells apart what gRPC has one code for.
_BY_CAUSE: Mapping[type[Exception], HTTPStatus] = MappingProxyType(
    {
        MessageTooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        RequestTooSlow: HTTPStatus.REQUEST_TIMEOUT,
        UnknownPath: HTTPStatus.NOT_FOUND,
        WrongMethod: HTTPStatus.METHOD_NOT_ALLOWED,
    }
)


def of_reply(reply: Reply) -> HTTPStatus:
    """The status of a call that ended with `reply`."""
    if reply.cause is not None and reply.cause in _BY_CAUSE:
        return _BY_CAUSE[reply.cause]
    return _BY_CODE[reply.code]


def failure(reply: Reply, marks: Metadata) -> HttpReply:
    """What a client hears of a call that did not succeed. `marks` are Guard's own headers."""
    return error(of_reply(reply), reply.details, marked(marks))


def marked(marks: Metadata) -> Headers:
    """Guard's marks, which over gRPC are trailers, as headers."""
    return tuple((key.encode(), value if isinstance(value, bytes) else value.encode()) for key, value in marks)
