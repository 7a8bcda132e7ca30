"""Whether the guarded server still answers at all: while it does not, nobody waits for it.

A server that is stopped, or a machine that is gone, keeps its connections for minutes. Fowler calls this a circuit
breaker; here a question decides instead of a count of failures, so that slow inference is not taken for a dead server.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Generator, Iterable
from contextvars import Context
from functools import partial
from typing import Any, Protocol

import grpc
import structlog

from guard.channel import AioChannel
from guard.errors import UpstreamUnavailable

SERVER_LIVE = "/inference.GRPCInferenceService/ServerLive"

_LOOKS = 4
"""So often the event loop must have had a turn before an answer counts as missing: it may be Guard that was busy."""

_log = structlog.get_logger(__name__)


class UnaryCall(Protocol):
    """As much of gRPC's as is needed here."""

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Have `callback` called at the end, once there is a status."""
        ...

    def done(self) -> bool:
        """Whether there is a status."""
        ...

    def __await__(self) -> Generator[Any, None, Any]:
        """Wait for the answer, or for what went wrong."""
        ...


class Breaker:
    """Watches a server while it owes answers to calls and streams.

    Where nothing is heard from it, it is asked whether it lives. If it doesn't answer that either, `unresponsive_s`
    after it was last heard at the latest, those that are owed an answer end as UNAVAILABLE, and others begin again once
    it answers. The question itself is never taken back, so that a server that comes round finds no storm of
    cancellations.
    """

    def __init__(
        self, channel: AioChannel, address: str, unresponsive_s: float, opened: Callable[[bool], None]
    ) -> None:
        self._channel = channel
        self._address = address
        self._look_s = unresponsive_s / 4
        self._show = opened
        self.is_open = False
        """Whether calls are refused."""
        self._waiting: dict[asyncio.Future[bool], UnaryCall] = {}
        self._hearing: dict[asyncio.Future[bool], Callable[[], bool]] = {}
        """Streams that are read, and whether they are owed an answer."""
        self._attended: dict[asyncio.Future[bool], asyncio.Task[None]] = {}
        self._heard = 0
        self._watching: asyncio.Task[None] | None = None
        self._asking: asyncio.Future[Any] | None = None

    def check(self) -> None:
        """Let a call begin.

        Raises:
            UpstreamUnavailable: the server does not answer.
        """
        if self.is_open:
            raise self._refusal()

    def heard(self) -> None:
        """The server answered something."""
        self._heard += 1

    def watch(self) -> None:
        """Look whether the server answers, for as long as it owes answers."""
        if self._watching is None or self._watching.done():
            self._watching = asyncio.create_task(self._watch(), context=Context())  # its log is of no request

    async def wait(self, call: UnaryCall, timeout_s: float | None) -> bool:
        """Wait for a call for so many seconds: whether it ended.

        gRPC tells that to a callback, which costs least. For calls that take long it is found out by awaiting them
        too: one that fails before it has begun, within gRPC, has no status, and so no callback.

        Raises:
            UpstreamUnavailable: the server stopped answering meanwhile.
        """
        loop = asyncio.get_running_loop()
        self.watch()
        waiting = loop.create_future()
        wake = partial(_wake, waiting)
        timer = None if timeout_s is None else loop.call_later(timeout_s, wake)
        call.add_done_callback(wake)
        self._waiting[waiting] = call
        try:
            ended = await waiting or call.done()
        finally:
            del self._waiting[waiting]
            if timer is not None:
                timer.cancel()
        if self.is_open and not ended:
            raise self._refusal()
        return ended

    async def hear(self, reading: asyncio.Future[Any], owed: Callable[[], bool]) -> None:
        """Wait for a read of a stream to end. A stream may be silent for as long as it is not `owed` an answer.

        Who sends a request on one calls `watch`.

        Raises:
            UpstreamUnavailable: the server stopped answering, and owes an answer.
        """
        waiting = asyncio.get_running_loop().create_future()
        reading.add_done_callback(partial(_wake, waiting))
        self._hearing[waiting] = owed
        try:
            if owed():
                self.watch()
            if not (self.is_open and owed()):
                await waiting
        finally:
            del self._hearing[waiting]
        if not reading.done():
            raise self._refusal()

    async def close(self) -> None:
        """Stop watching."""
        for each in (self._watching, self._asking):
            if each is not None:
                each.cancel()
                await asyncio.wait({each})

    def _refusal(self) -> UpstreamUnavailable:
        return UpstreamUnavailable(
            f"the upstream at {self._address} answers nothing, not even whether it lives; guard goes on asking, and "
            "needs no restart. If it only was slow, the operator of guard may raise upstream.unresponsive_s"
        )

    async def _watch(self) -> None:
        """Look for as long as answers are owed, or no call may begin."""
        while self._owed() or self.is_open:
            before, early = self._heard, tuple(self._waiting)
            await asyncio.sleep(self._look_s)
            self._attend(early)
            if (self._owed() and self._heard == before) or self.is_open:
                self._set(opened=not await self._lives(before))

    def _owed(self) -> bool:
        return bool(self._waiting) or any(owed() for owed in self._hearing.values())

    def _attend(self, early: Iterable[asyncio.Future[bool]]) -> None:
        """Await the calls of these that still wait."""
        for waiting in self._waiting.keys() & set(early) - self._attended.keys():
            ending = self._end(self._waiting[waiting], waiting)
            self._attended[waiting] = asyncio.create_task(ending, context=Context())

    async def _end(self, call: UnaryCall, waiting: asyncio.Future[bool]) -> None:
        """Wait for the end of a call, however it ends. Nobody may cancel this: gRPC would cancel the call."""
        with contextlib.suppress(Exception, asyncio.CancelledError):
            await call
        del self._attended[waiting]
        if not waiting.done():
            waiting.set_result(True)

    async def _lives(self, heard: int) -> bool:
        """Ask, and wait half of the time that there is. Where there is no connection, calls fail by themselves."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.ensure_future(self._ask())
        for _ in range(_LOOKS):
            await asyncio.wait({self._asking}, timeout=2 * self._look_s / _LOOKS)
            if self._asking.done() or self._heard != heard:
                return True
        return False

    async def _ask(self) -> None:
        try:
            await self._channel.unary_unary(SERVER_LIVE)(b"")
        except grpc.aio.AioRpcError as error:
            _log.debug("the upstream was asked whether it lives", code=error.code().name)

    def _set(self, *, opened: bool) -> None:
        if opened is self.is_open:
            return
        self.is_open = opened
        if opened:
            _log.warning("the upstream does not answer any more", address=self._address)
            for waiting in (*self._waiting, *(each for each, owed in self._hearing.items() if owed())):
                _wake(waiting)
        else:
            _log.info("the upstream answers again", address=self._address)
        self._show(opened)


def _wake(waiting: asyncio.Future[bool], _: object = None) -> None:
    if not waiting.done():
        waiting.set_result(False)
