"""A stream to the guarded server, which outlives the client's where cancellations may not reach the server."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias

import grpc

from guard.errors import UpstreamUnavailable
from guard.wire.breaker import Breaker
from guard.wire.metadata import to_client
from guard.wire.status import Metadata

StreamCall: TypeAlias = "grpc.aio.StreamStreamCall[Any, Any]"

_OVER = (asyncio.InvalidStateError, grpc.aio.AioRpcError, grpc.aio.BaseError)
"""What gRPC raises at a write after the call has ended. `receive` finds out how it did."""

_STATUS_LOST = "Internal error from Core"
"""gRPC's words where a write failed because the server had ended the stream: what the server said is lost then."""

_LOOKS, _LOOK_S = 20, 0.01
"""A stream may hear that its connection is lost before the connection does."""


class UpstreamStream:
    """A stream that the upstream was asked for.

    gRPC cancels a whole call where somebody who waits for a read or a write of it is cancelled. So reads and writes
    have tasks of their own, for which others only wait.

    `owed` tells whether the upstream has not answered all that it was sent, or may not have: it is not waited for where
    it doesn't answer at all (see `breaker`). `cancellable`: it may hear that the client left. `adopt` keeps a task that
    has to run on without a client, `ended` is told the status, and `check` raises for an error that is the connection's
    and not the server's.
    """

    def __init__(
        self,
        call: StreamCall,
        *,
        breaker: Breaker,
        owed: Callable[[], bool],
        cancellable: bool,
        adopt: Callable[[asyncio.Task[None]], None],
        ended: Callable[[grpc.StatusCode], None],
        check: Callable[[grpc.aio.AioRpcError], None],
    ) -> None:
        self._call = call
        self._breaker = breaker
        self._owed = owed
        self._cancellable = cancellable
        self._adopt = adopt
        self._ended = ended
        self._check = check
        self._reading: asyncio.Future[Any] | None = None
        self._writing: asyncio.Future[None] | None = None
        self._error: grpc.aio.AioRpcError | None = None
        self._over = False
        self._left = False
        self._finished = False

    def check(self) -> None:
        """Let a message be sent.

        Raises:
            UpstreamUnavailable: the upstream does not answer.
        """
        self._breaker.check()

    async def send(self, message: bytes) -> None:
        """Send a message, as soon as the upstream takes it. Where it takes no more, `receive` says so."""
        self._breaker.watch()
        await self._write(self._call.write(message))

    async def finish(self) -> None:
        """Say that no message follows: what is left to wait for is the end."""
        self._finished = True
        self._breaker.watch()
        await self._write(self._call.done_writing())

    async def receive(self) -> bytes | None:
        """The next message; None once the stream has ended.

        Raises:
            UpstreamUnavailable: the upstream does not answer any more, and owes an answer.
        """
        if self._over:
            return None
        if self._reading is None:
            self._reading = _own(self._call.read())
        await self._breaker.hear(self._reading, self._is_owed)
        try:
            message = self._reading.result()
        except grpc.aio.AioRpcError as error:
            self._error, message = error, None
        self._reading = None
        if isinstance(message, bytes):
            self._breaker.heard()
            return message
        self._end(grpc.StatusCode.OK if self._error is None else self._error.code())
        return None

    async def metadata(self) -> Metadata:
        """What the upstream said before its first message, once that was received."""
        return to_client(await self._call.initial_metadata())

    async def ending(self) -> tuple[grpc.StatusCode, str, Metadata]:
        """How a stream that has ended did so: status, message and trailing metadata.

        Raises:
            UpstreamUnavailable: there was no connection to the upstream, or it was lost; or gRPC lost the status.
        """
        if self._error is not None:
            if self._error.details() == _STATUS_LOST:
                raise UpstreamUnavailable(
                    "the upstream ended the stream while a request was on its way to it; open the stream again, and "
                    "send what was not answered"
                )
            await self._check_connection(self._error)
        trailing = to_client(await self._call.trailing_metadata())
        return await self._call.code(), await self._call.details() or "", trailing

    def leave(self) -> None:
        """The client is gone: cancel the stream, or let what the upstream works on run to its end."""
        if self._over:
            return
        self._left = True
        if self._cancellable:
            self._call.cancel()
            for operation in (self._reading, self._writing):
                if operation is not None:
                    operation.cancel()  # gRPC leaves a write waiting if the connection was still being made
            self._end(grpc.StatusCode.CANCELLED)
        else:
            self._adopt(asyncio.create_task(self._run_out()))

    async def _check_connection(self, error: grpc.aio.AioRpcError) -> None:
        for _ in range(_LOOKS if error.code() is grpc.StatusCode.UNAVAILABLE else 0):
            self._check(error)
            await asyncio.sleep(_LOOK_S)

    async def _run_out(self) -> None:
        """Finish, and read what the upstream still says: it could wait for somebody to read before it takes more."""
        finishing = asyncio.create_task(self._finish_after_write())
        try:
            while await self.receive() is not None:
                pass
        finally:
            finishing.cancel()

    async def _finish_after_write(self) -> None:
        if self._writing is not None:
            await asyncio.wait({self._writing})
        await self.finish()

    async def _write(self, operation: Coroutine[Any, Any, None]) -> None:
        self._writing = _own(operation)
        with contextlib.suppress(*_OVER):
            await asyncio.shield(self._writing)

    def _is_owed(self) -> bool:
        return not self._left and (self._finished or self._owed())

    def _end(self, code: grpc.StatusCode) -> None:
        self._over = True
        self._ended(code)


def _own(operation: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """Run an operation to its end. What it ends with may come when nobody waits for it any more."""
    task = asyncio.create_task(operation)
    task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
    return task
