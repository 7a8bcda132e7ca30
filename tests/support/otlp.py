"""A collector of traces, by the service of OpenTelemetry's own protocol; and a server that shows what it was told."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as service
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as service_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Span

from guard.pb import grpc_service_pb2 as v2
from tests.support.waiting import wait_for

_INFER = "/inference.GRPCInferenceService/ModelInfer"


class Receiver(service_grpc.TraceServiceServicer):
    """Keeps what is sent to it. It answers nothing while `answers` is cleared."""

    def __init__(self) -> None:
        self.received: list[ResourceSpans] = []
        self.headers: dict[str, str] = {}
        self.asked = threading.Event()
        self.answers = threading.Event()
        self.answers.set()
        self.address = ""

    def Export(self, request: service.ExportTraceServiceRequest, context: Any) -> service.ExportTraceServiceResponse:  # noqa: N802 - the service's name
        """Take spans."""
        self.asked.set()
        self.answers.wait()
        self.headers = dict(context.invocation_metadata())
        self.received.extend(request.resource_spans)
        return service.ExportTraceServiceResponse()

    def spans(self) -> list[Span]:
        """The spans so far."""
        return [span for each in self.received for scope in each.scope_spans for span in scope.spans]

    def wait_for(self, number: int) -> list[Span]:
        """The spans, once there are as many."""
        wait_for(lambda: len(self.spans()) >= number)
        return self.spans()


@contextmanager
def receiving(credentials: grpc.ServerCredentials | None = None) -> Iterator[Receiver]:
    """A collector on a free port."""
    receiver = Receiver()
    server = grpc.server(ThreadPoolExecutor(2))
    service_grpc.add_TraceServiceServicer_to_server(receiver, server)
    any_port = "127.0.0.1:0"
    port = server.add_insecure_port(any_port) if credentials is None else server.add_secure_port(any_port, credentials)
    receiver.address = f"127.0.0.1:{port}"
    server.start()
    try:
        yield receiver
    finally:
        receiver.answers.set()
        server.stop(None).wait()


class Relay(grpc.GenericRpcHandler):
    """Passes calls on to a v2 server as they are, and keeps the metadata of inferences.

    The server need not know streams: their messages are passed on as calls.
    """

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel
        self.told: list[dict[str, str]] = []
        self.address = ""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        """Take any method."""
        method = handler_call_details.method

        def note(context: Any) -> None:
            if method.endswith("Infer"):
                self.told.append(dict(context.invocation_metadata()))

        def one(message: bytes, context: Any) -> bytes:
            note(context)
            return bytes(self._channel.unary_unary(method)(message))

        def many(messages: Iterator[bytes], context: Any) -> Iterator[bytes]:
            note(context)
            for message in messages:
                answer = v2.ModelInferResponse.FromString(self._channel.unary_unary(_INFER)(message))
                yield v2.ModelStreamInferResponse(infer_response=answer).SerializeToString()

        if method.endswith("StreamInfer"):
            return grpc.stream_stream_rpc_method_handler(many)
        return grpc.unary_unary_rpc_method_handler(one)


@contextmanager
def relaying(address: str) -> Iterator[Relay]:
    """A relay in front of a server."""
    with grpc.insecure_channel(address) as channel:
        relay = Relay(channel)
        server = grpc.server(ThreadPoolExecutor(8), handlers=(relay,))
        relay.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        server.start()
        try:
            yield relay
        finally:
            server.stop(None).wait()
