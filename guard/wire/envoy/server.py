"""The server that Envoy talks to, at an address of its own: nobody else should reach it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import grpc

from guard.config import Settings
from guard.errors import Unsupported
from guard.wire.answer import Context, identified, refuse, send
from guard.wire.envoy.handover import handover
from guard.wire.envoy.mirror import MirrorHandler
from guard.wire.envoy.process import PROCESS, Processor
from guard.wire.listener import Listener, server_options
from guard.wire.passage import METHOD
from guard.wire.ports import Auditor, Screener, Tracer, WireMetrics
from guard.wire.receive import transport_limit
from guard.wire.room import Room
from guard.wire.status import Metadata, refusal_trailers

SETTING = "listen.envoy_address"


class EnvoyServer:
    """Serves external processing and mirrored calls. Nothing that comes in here is forwarded."""

    def __init__(
        self,
        screener: Screener,
        settings: Settings,
        metrics: WireMetrics,
        room: Room,
        secret: Callable[[], Metadata],
        *,
        auditors: Sequence[Auditor] = (),
        tracer: Tracer | None = None,
    ) -> None:
        self._settings = settings
        self._passage = passage = handover(screener, settings, metrics, room, auditors, tracer=tracer)
        max_message_bytes = settings.upstream.max_message_bytes
        processor = Processor(passage, metrics, max_message_bytes, secret)
        mirror = MirrorHandler(passage, screener, metrics, max_message_bytes)
        self._methods = _Methods(processor, mirror, metrics)
        self._running: tuple[grpc.aio.Server, Listener] | None = None

    async def start(self, address: str, credentials: grpc.ServerCredentials | None) -> int:
        """Bind and serve. Returns the port, 0 of a Unix socket.

        Raises:
            AddressUnusable: the address can't be bound.
        """
        # In ext_proc's questions a message has more around it.
        largest_bytes = transport_limit(self._settings.upstream.max_message_bytes)
        server = grpc.aio.server(options=server_options(self._settings, largest_bytes))
        listen = self._settings.listen.model_copy(update={"address": address})
        try:
            listener = Listener(server, listen, credentials, setting=SETTING)
        except BaseException:
            await server.stop(None)
            raise
        server.add_generic_rpc_handlers((self._methods,))
        await server.start()
        self._running = server, listener
        return listener.port

    async def stop(self, grace_s: float) -> None:
        """Take no new calls, give those that run `grace_s` seconds, and close."""
        if self._running is None:
            return
        (server, listener), self._running = self._running, None
        await server.stop(grace_s)
        listener.close()

    async def close(self, grace_s: float) -> None:
        """Give what is only watched `grace_s` seconds to be judged."""
        await self._passage.close(grace_s)


class _Methods(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # generic in the stubs only
    """Finds the handler of a method."""

    def __init__(self, processor: Processor, mirror: MirrorHandler, metrics: WireMetrics) -> None:
        self._metrics = metrics
        self._handlers = {
            PROCESS: grpc.stream_stream_rpc_method_handler(processor.process),
            METHOD: grpc.stream_unary_rpc_method_handler(mirror.answer),
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:  # type: ignore[type-arg]
        """The handler of the method that is called; one that refuses it, if there is none."""
        known = self._handlers.get(handler_call_details.method)
        return known or grpc.stream_stream_rpc_method_handler(self._refuse)

    async def _refuse(self, _messages: object, context: Context) -> None:
        error = Unsupported("this address is for Envoy's ext_proc filter and for copies of ModelInfer calls")
        with identified() as call_id:
            await send(context, refuse(error, self._metrics, call_id), refusal_trailers(call_id))
