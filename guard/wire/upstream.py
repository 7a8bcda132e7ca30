"""The guarded server: raw bytes to it, and its answer back as it was given."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import grpc
import structlog

from guard.channel import AioChannel, Link
from guard.config import Upstream as UpstreamSettings
from guard.errors import DeadlineExceeded, Overloaded, UpstreamUnavailable
from guard.plural import counted
from guard.wire.breaker import Breaker
from guard.wire.cancellation import CancellationPolicy
from guard.wire.metadata import check_metadata, to_client
from guard.wire.ports import WireMetrics
from guard.wire.receive import transport_limit, unpacked
from guard.wire.status import Metadata
from guard.wire.upstream_stream import UpstreamStream

MAX_ABANDONED_CALLS = 256
"""Shielded calls that may still run at the upstream after their clients left: half as many of one client."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Call:
    """A unary call to the upstream. `model` labels its metrics, and is empty for calls that carry no inference.

    `client` is whose it is: what it leaves behind is its own.
    """

    method: str
    message: bytes
    metadata: Metadata
    deadline_s: float | None
    model: str = ""
    client: str = ""


@dataclass(frozen=True, slots=True)
class Reply:
    """How a call ends for the client: the upstream's answer, or Guard's own; `cause` is then the kind of error."""

    code: grpc.StatusCode
    details: str = ""
    body: bytes = b""
    initial_metadata: Metadata = ()
    trailing_metadata: Metadata = ()
    cause: type[Exception] | None = None


class Upstream:
    """A connection to the guarded server. It is made when the first call needs it, and again whenever it was lost.

    Create it on the event loop that uses it, and close it.
    """

    def __init__(
        self,
        settings: UpstreamSettings,
        metrics: WireMetrics,
        *,
        link: Link | None = None,
        max_abandoned_calls: int = MAX_ABANDONED_CALLS,
    ) -> None:
        self._address = settings.address
        self._speaks_tls = settings.tls is not None
        self._metrics = metrics
        self._max_message_bytes = settings.max_message_bytes
        self._max_abandoned_calls = max_abandoned_calls
        self._abandoned: set[asyncio.Task[Any]] = set()
        self._left = Counter[str]()
        """How many of these each client has left."""
        self._channel = AioChannel(link or Link(settings), transport_limit(settings.max_message_bytes))
        self._cancellation = CancellationPolicy(settings.cancellation, self._channel)
        self._breaker = Breaker(self._channel, settings.address, settings.unresponsive_s, metrics.upstream_unresponsive)

    async def call(self, call: Call) -> Reply:
        """Make a call, and return what the upstream answered, be it success or error.

        Raises:
            UpstreamUnavailable: there is no connection to the upstream, or it does not answer any more.
            DeadlineExceeded: the client's deadline ran out, and policy keeps it from the upstream.
            Overloaded: too many calls still run at the upstream whose clients, or this one's, have left.
            MessageTooLarge: the upstream's answer is over `upstream.max_message_bytes`.
            MalformedRequest: the client's metadata is too large for the upstream.
        """
        check_metadata(call.metadata)
        if call.deadline_s is not None and call.deadline_s <= 0:
            raise DeadlineExceeded("the deadline ran out before the request was sent to the upstream")
        self._breaker.check()
        cancellable = self._cancellation.passes_on()
        if not cancellable:
            self._check_abandoned(call.client)
        timeout_s, patience_s = (call.deadline_s, None) if cancellable else (None, call.deadline_s)
        started_s = time.perf_counter()
        rpc = self._channel.unary_unary(call.method)(call.message, timeout=timeout_s, metadata=call.metadata)
        ended = False
        try:
            ended = await self._breaker.wait(rpc, patience_s)
        finally:
            if not ended:
                if cancellable:
                    rpc.cancel()
                self._adopt(call.client, asyncio.create_task(self._reply(rpc, call.model, started_s)))
        if not ended:
            raise DeadlineExceeded("the deadline ran out while the upstream was working")
        return await self._reply(rpc, call.model, started_s)

    def open(
        self, method: str, metadata: Metadata, deadline_s: float | None, client: str, owed: Callable[[], bool]
    ) -> UpstreamStream:
        """Open a stream, which is `client`'s. `owed` tells whether it waits for an answer.

        Raises:
            UpstreamUnavailable: the upstream does not answer any more.
            Overloaded: too many calls still run at the upstream whose clients have left.
            MalformedRequest: the client's metadata is too large for the upstream.
        """
        check_metadata(metadata)
        self._breaker.check()
        cancellable = self._cancellation.passes_on()
        if not cancellable:
            self._check_abandoned(client)
        call = self._channel.stream_stream(method)(timeout=deadline_s if cancellable else None, metadata=metadata)
        return UpstreamStream(
            call,
            breaker=self._breaker,
            owed=owed,
            cancellable=cancellable,
            adopt=partial(self._adopt, client),
            # It lasts as long as its client likes, so its duration says nothing about the upstream.
            ended=lambda code: self._metrics.upstream_finished(model="", code=code.name, duration_s=None),
            check=self._raise_if_unreachable,
        )

    async def close(self, grace_s: float) -> None:
        """Let abandoned calls end, for `grace_s` seconds, then cut the connection."""
        if self._abandoned:
            await asyncio.wait(self._abandoned, timeout=grace_s)
        await self._breaker.close()
        await self._cancellation.close()
        await self._channel.close()

    def _check_abandoned(self, client: str) -> None:
        """Let a client begin a call. It may have left more than its share at once, which others don't pay for."""
        if not self._left:
            return
        share = -(-self._max_abandoned_calls // 2)
        if sum(min(number, share) for number in self._left.values()) >= self._max_abandoned_calls:
            left = f"{counted(len(self._abandoned), 'request')} whose clients have left"
        elif (number := self._left[client]) >= share:
            left = f"{counted(number, 'request')} that this client has left"
        else:
            return
        raise Overloaded(f"the upstream still works on {left}; retry with backoff")

    def _adopt(self, client: str, task: asyncio.Task[Any]) -> None:
        self._abandoned.add(task)
        self._left[client] += 1
        task.add_done_callback(partial(self._forget, client))

    def _forget(self, client: str, task: asyncio.Task[Any]) -> None:
        self._abandoned.discard(task)
        self._left[client] -= 1
        if not self._left[client]:
            del self._left[client]
        if not task.cancelled():
            task.exception()  # marks it as seen: nobody is left to tell

    async def _reply(self, rpc: grpc.aio.UnaryUnaryCall[bytes, bytes], model: str, started_s: float) -> Reply:
        """How a call ends, which is counted."""
        code = grpc.StatusCode.CANCELLED
        try:
            body = await rpc
            self._breaker.heard()
            code = grpc.StatusCode.OK
            return Reply(
                code,
                body=await unpacked("the upstream's answer", body, self._max_message_bytes),
                initial_metadata=to_client(await rpc.initial_metadata()),
                trailing_metadata=to_client(await rpc.trailing_metadata()),
            )
        except grpc.aio.AioRpcError as error:
            code = error.code()
            self._raise_if_unreachable(error)
            self._breaker.heard()
            return Reply(
                code,
                error.details() or "",
                initial_metadata=to_client(error.initial_metadata()),
                trailing_metadata=to_client(error.trailing_metadata()),
            )
        finally:
            duration_s = time.perf_counter() - started_s
            self._metrics.upstream_finished(model=model, code=code.name, duration_s=duration_s)

    def _raise_if_unreachable(self, error: grpc.aio.AioRpcError) -> None:
        """Tell an UNAVAILABLE of the connection from one that the server answered.

        gRPC reports both alike. A server that answers keeps its connection, which is then READY, or sends trailers;
        one that can't be reached, or goes away during the call, leaves the channel in another state. A server that
        answers without trailers and closes at once is taken for one that went away, which is true a moment later.
        """
        connected = self._channel.get_state() is grpc.ChannelConnectivity.READY
        if error.code() is grpc.StatusCode.UNAVAILABLE and not connected and not error.trailing_metadata():
            _log.warning("the upstream can't be reached", address=self._address, reason=error.details())
            tls = ", and that it speaks TLS as upstream.tls says" if self._speaks_tls else ""
            raise UpstreamUnavailable(
                f"guard can't reach the upstream at {self._address}; "
                f"check that it is running and that upstream.address names its gRPC port{tls}"
            ) from error
