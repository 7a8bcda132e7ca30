"""What stands between Guard and a real v2 server, and keeps what Guard sends there, to the byte."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import grpc

INFER, STREAM = "ModelInfer", "ModelStreamInfer"
_THREADS = 64
_OF_THE_CONNECTION = "user-agent"
_OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


@dataclass(frozen=True)
class Sent:
    """A message that Guard sent. `method` is without its service; metadata may hold a name twice."""

    method: str
    message: bytes
    metadata: tuple[tuple[str, str | bytes], ...]


class Tap(grpc.GenericRpcHandler):
    """Passes every call on to the server at an address. Who leaves early is not passed on: Triton would mind."""

    def __init__(self, address: str) -> None:
        self.sent: list[Sent] = []
        self._channel = grpc.insecure_channel(address, _OPTIONS)
        self._server = grpc.server(ThreadPoolExecutor(_THREADS), (self,), options=_OPTIONS)
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    def start(self) -> None:
        """Serve."""
        self._server.start()

    def stop(self) -> None:
        """Cut all connections."""
        self._server.stop(None).wait()
        self._channel.close()

    def inferences(self) -> list[Sent]:
        """The requests for inferences so far, of streams too."""
        return [each for each in tuple(self.sent) if each.method in {INFER, STREAM}]

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        """Take any method of the protocol."""
        path = handler_call_details.method
        method = path.rpartition("/")[2]

        def keep(message: bytes, context: grpc.ServicerContext) -> bytes:
            self.sent.append(Sent(method, message, _metadata(context)))
            return message

        def unary(message: bytes, context: grpc.ServicerContext) -> bytes:
            call = self._channel.unary_unary(path)
            answer: bytes = _ended_alike(context, lambda: call(keep(message, context), metadata=_metadata(context)))
            return answer

        def stream(messages: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
            call = self._channel.stream_stream(path)
            answers = call((keep(message, context) for message in messages), metadata=_metadata(context))
            while (answer := _ended_alike(context, lambda: next(answers, None))) is not None:
                yield answer

        if method == STREAM:
            return grpc.stream_stream_rpc_method_handler(stream)
        return grpc.unary_unary_rpc_method_handler(unary)


def _metadata(context: grpc.ServicerContext) -> tuple[tuple[str, str | bytes], ...]:
    return tuple((key, value) for key, value in context.invocation_metadata() if key != _OF_THE_CONNECTION)


def _ended_alike(context: grpc.ServicerContext, ask: Callable[[], Any]) -> Any:
    """What the server answers; an error of it is an error here."""
    try:
        return ask()
    except grpc.RpcError as error:
        context.abort(error.code(), error.details())
