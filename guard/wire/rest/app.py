"""The ASGI application: requests to calls, and how calls end to replies."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from email.utils import formatdate
from itertools import chain
from typing import Any, TypeAlias

import grpc

from guard.config import Settings
from guard.errors import GuardError, Overloaded, Unsupported, WrongMethod
from guard.wire.answer import identified, refuse
from guard.wire.methods import denied
from guard.wire.pace import GRACE_S, LEAST_BYTES_PER_S
from guard.wire.passage import Passage
from guard.wire.ports import WireMetrics
from guard.wire.rest import control
from guard.wire.rest.inference import Inference
from guard.wire.rest.intake import Incoming, Receive
from guard.wire.rest.metadata import from_headers
from guard.wire.rest.reply import CLOSE, Headers, HttpReply
from guard.wire.rest.routes import POSTED, Kind, Route, find
from guard.wire.rest.statuses import failure
from guard.wire.room import Room
from guard.wire.status import Metadata, refusal_trailers
from guard.wire.upstream import Call, Upstream

Scope: TypeAlias = Mapping[str, Any]
Send: TypeAlias = Callable[[Mapping[str, Any]], Awaitable[None]]

ABORT, CLIENT, CROWDED, PEER = "abort", "client", "crowded", "peer"
"""Names in the scope's state: what cuts the connection, who made it, whether there are too many, and its address."""

_SERVICE = "/inference.GRPCInferenceService/"
_SLICE_BYTES = 1 << 18
_TOO_MANY = "there are too many connections; retry with backoff"


class RestApp:
    """Serves the v2 protocol over HTTP, through the same passage as gRPC. While it is `closing`, connections end."""

    def __init__(self, passage: Passage, upstream: Upstream, settings: Settings, metrics: WireMetrics) -> None:
        self._upstream = upstream
        self._metrics = metrics
        self.closing = False
        self._max_message_bytes = settings.upstream.max_message_bytes
        # Of bodies that are still on their way. One alone, of which it hears step by step, always has room.
        self._room = Room(max(settings.limits.max_inflight_bytes, 2 * self._max_message_bytes))
        self._inference = Inference(passage, upstream, self._room, metrics, self._max_message_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        incoming = Incoming(scope["headers"], receive)
        try:
            crowded = scope["state"][CROWDED]()
            reply = self.refused(Overloaded(_TOO_MANY)) if crowded else await self._answer(scope, incoming)
            if crowded or not await incoming.drain(self._max_message_bytes) or self.closing:
                reply = replace(reply, headers=(*reply.headers, CLOSE))
            incoming.answered()
            await _send(send, reply, scope)
        except asyncio.CancelledError:
            return  # nobody waits for the answer
        finally:
            incoming.answered()

    def refused(self, error: GuardError, headers: Headers = ()) -> HttpReply:
        """The reply to a request that is refused before anything is known of it."""
        with identified() as call_id:
            reply = failure(refuse(error, self._metrics, call_id), refusal_trailers(call_id))
        return replace(reply, headers=(*reply.headers, *headers))

    async def _answer(self, scope: Scope, incoming: Incoming) -> HttpReply:
        try:
            route, metadata = find(scope["raw_path"]), from_headers(incoming.headers)
            if route.kind is Kind.DENIED:
                raise denied(scope["path"])
            if route.kind is Kind.GENERATE:
                raise Unsupported("guard does not screen generate requests, so it lets none through; use infer")
        except GuardError as error:
            return self.refused(error)
        allowed = "POST" if route.kind in POSTED else "GET"
        if scope["method"] != allowed:
            return self.refused(WrongMethod(f"this path takes {allowed} only"), ((b"allow", allowed.encode()),))
        if route.kind is not Kind.INFER:
            return await self._pass(route, incoming, metadata, scope["state"][CLIENT])
        return await self._inference.answer(incoming, route, metadata, scope["state"][CLIENT], scope["state"][PEER])

    async def _pass(self, route: Route, incoming: Incoming, metadata: Metadata, client: str) -> HttpReply:
        """Forward a call that carries no inference."""
        with identified() as call_id:
            try:
                body = await incoming.body(self._room, self._max_message_bytes)
                method, message = control.question(route, body)
                call = Call(_SERVICE + method, message, metadata, deadline_s=None, client=client)
                ended = await self._upstream.call(call)
                if ended.code is grpc.StatusCode.OK:
                    return control.answer(route.kind, ended.body)
            except Exception as error:  # noqa: BLE001 - the boundary: every error becomes a status
                return failure(refuse(error, self._metrics, call_id), refusal_trailers(call_id))
            return failure(ended, ())


async def _send(send: Send, reply: HttpReply, scope: Scope) -> None:
    """Send a reply, a large one in slices: the connection is cut if the client takes them too slowly."""
    date = formatdate(usegmt=True).encode()
    headers = [*reply.headers, (b"content-length", b"%d" % reply.size), (b"date", date)]
    await send({"type": "http.response.start", "status": int(reply.status), "headers": headers})
    if reply.size <= _SLICE_BYTES:
        await send({"type": "http.response.body", "body": b"".join(reply.body)})
        return
    try:
        async with asyncio.timeout(GRACE_S + reply.size / LEAST_BYTES_PER_S):
            for piece in chain.from_iterable(map(_slices, reply.body)):
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body"})
    except TimeoutError:
        scope["state"][ABORT]()


def _slices(piece: bytes | memoryview) -> list[memoryview]:
    view = memoryview(piece)
    return [view[at : at + _SLICE_BYTES] for at in range(0, len(view), _SLICE_BYTES)]
