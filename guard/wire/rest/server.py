"""The HTTP server: uvicorn, in Guard's own event loop, and bounded where it is not."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import Any, cast

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from guard.config import Settings, host_and_port
from guard.errors import AddressUnusable, MalformedRequest
from guard.wire.passage import Passage
from guard.wire.ports import WireMetrics
from guard.wire.rest.app import ABORT, CLIENT, CROWDED, PEER, RestApp
from guard.wire.rest.cork import Corked
from guard.wire.rest.metadata import client_name
from guard.wire.rest.reply import CLOSE
from guard.wire.tls import name_of_peer, server_context
from guard.wire.upstream import Upstream

MAX_HEAD_BYTES = 16 * 1024
"""Request line and headers. gRPC servers take 8 to 16 KiB of metadata."""

MAX_CONNECTIONS = 4096
HEAD_TIMEOUT_S = 10.0
"""Seconds for request line and headers, from the first byte or the connection on."""

IDLE_TIMEOUT_S = 75
"""Seconds that a connection is kept without a request: a client that takes up a closed one again loses a request."""

_LAST_BYTES_S = 5.0
_FAREWELL_S = 0.2
"""For so long before the end, answers tell clients to close their connections: who finds one closed loses a request."""

_TURNS_TO_HEAR = 10
"""In so many turns of the event loop at least: it may be Guard that stands still meanwhile."""

_NO_REQUEST = (
    "this is no request of HTTP/1.1 that guard can read: check its first line, its headers, which have "
    f"{MAX_HEAD_BYTES} bytes at most with it, and how its length is told"
)
_TURNS_TO_BEGIN = 3
_POLL_S = 0.02


class RestServer:
    """Serves the v2 protocol over HTTP at an address."""

    def __init__(self, passage: Passage, upstream: Upstream, settings: Settings, metrics: WireMetrics) -> None:
        self._app = RestApp(passage, upstream, settings, metrics)
        self._tls = settings.listen.tls
        self._running: tuple[uvicorn.Server, socket.socket] | None = None

    async def start(self, address: str) -> int:
        """Bind and serve. Returns the port, which the system chose if the address says port 0.

        Raises:
            AddressUnusable: the address can't be bound.
            FileUnusable: a file of `listen.tls` can't be used.
        """
        config = _config(self._app)
        config.load()
        config.ssl = server_context(self._tls) if self._tls is not None else None
        listener = _bind(address)
        server = uvicorn.Server(config)  # step by step: its `serve` takes the process's signals
        server.lifespan = config.lifespan_class(config)
        await server.startup([listener])
        self._running = server, listener
        port: int = listener.getsockname()[1]
        return port

    async def stop(self, grace_s: float) -> None:
        """Take no new connections, give the running requests `grace_s` seconds, and close."""
        if self._running is None:
            return
        server, listener = self._running
        self._running = None
        ends_s = time.monotonic() + grace_s
        await _stop_accepting(server, listener)
        self._app.closing = True
        for _ in range(_TURNS_TO_HEAR):
            await asyncio.sleep(min(grace_s, _FAREWELL_S) / _TURNS_TO_HEAR)
        state = server.server_state
        for connection in list(state.connections):
            connection.shutdown()
        while state.connections and time.monotonic() < ends_s:  # noqa: ASYNC110 - uvicorn sets no event
            await asyncio.sleep(_POLL_S)
        for connection in list(state.connections):
            connection.transport.abort()
        if state.tasks:
            await asyncio.wait(set(state.tasks))


async def _stop_accepting(server: uvicorn.Server, listener: socket.socket) -> None:
    """Close the listener, but not between a connection's arrival and its first turn: asyncio would lose it."""
    asyncio.get_running_loop().remove_reader(listener)
    for _ in range(_TURNS_TO_BEGIN):
        await asyncio.sleep(0)
    for each in server.servers:
        each.close()


class _Protocol(H11Protocol):
    """A connection that must say what it wants in time, and hears of all that is wrong as the protocol says it.

    uvicorn only times the pauses between requests, and what it refuses itself it says in words of its own, to nobody
    but the client.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(cast("asyncio.Transport", Corked(transport, self.loop)))
        shown, peer = transport.get_extra_info("peercert"), transport.get_extra_info("peername")
        host = client_name(peer[0] if peer else "")
        address = f"{host}:{peer[1]}" if peer else ""
        self.app_state = {
            ABORT: transport.abort,
            CLIENT: name_of_peer(shown) or host,
            CROWDED: self._crowded,
            PEER: address,
        }
        self._head_timer: asyncio.TimerHandle | None = None
        self._time_the_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unset_head_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is h11.IDLE:
            self._time_the_head()
        else:
            self._unset_head_timer()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's words
        """Answer what is no request."""
        reply = cast("RestApp", self.app).refused(MalformedRequest(_NO_REQUEST), (CLOSE,))
        headers = [*reply.headers, (b"content-length", b"%d" % reply.size)]
        try:
            self._send(h11.Response(status_code=reply.status, headers=headers))
            self._send(h11.Data(data=b"".join(reply.body)))
            self._send(h11.EndOfMessage())
        except h11.LocalProtocolError:  # as to HEAD, whose answers have no body
            self.transport.abort()
        else:
            self.transport.close()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self.loop.call_later(_LAST_BYTES_S, self.transport.abort)  # it may not take the last answer

    def _send(self, event: h11.Event) -> None:
        self.transport.write(self.conn.send(event) or b"")

    def _crowded(self) -> bool:
        return max(len(self.connections), len(self.tasks)) > MAX_CONNECTIONS

    def _time_the_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self.transport.abort)

    def _unset_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


def _config(app: Any) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=_Protocol,
        ws="none",
        lifespan="off",
        loop="none",
        log_config=None,
        log_level="critical",  # Guard logs what it refuses itself
        access_log=False,
        proxy_headers=False,  # or clients could say whose requests theirs are
        server_header=False,
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        timeout_keep_alive=IDLE_TIMEOUT_S,
    )


def _bind(address: str) -> socket.socket:
    try:
        host, port = host_and_port(address)
        family, _, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.create_server(where[:2], family=family, backlog=MAX_CONNECTIONS)
    except (OSError, ValueError) as exc:
        why = str(getattr(exc, "strerror", None) or exc)
        raise AddressUnusable(address, "listen.http_address", why) from exc
    listener.setblocking(False)
    return listener
