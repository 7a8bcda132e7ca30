"""A server with streams that answers as Triton does, and requests to it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc

from guard.pb.grpc_service_pb2 import (
    ModelConfigRequest,
    ModelConfigResponse,
    ModelInferRequest,
    ModelInferResponse,
    ModelStreamInferResponse,
    ServerMetadataResponse,
)
from guard.wire.breaker import SERVER_LIVE
from tests.wire.parts import SERVICE

STREAM = SERVICE + "ModelStreamInfer"


def request(request_id: str = "", *, model: str = "digits", value: int = 1, **parameters: int) -> ModelInferRequest:
    """A request whose one item is `value`."""
    made = ModelInferRequest(model_name=model, id=request_id, raw_input_contents=[bytes([value])])
    made.inputs.add(name="image", datatype="UINT8", shape=[1, 1])
    for name, number in parameters.items():
        made.parameters[name].int64_param = number
    return made


def large(number: int) -> ModelInferRequest:
    """A request of 300 kB, more than fits in what gRPC has under way."""
    made = request(f"{number}")
    made.raw_input_contents[0] = bytes(300_000)
    made.inputs[0].shape[:] = [300_000, 1]
    return made


def response(
    to: ModelInferRequest, *, final: bool | None = True, error: str = "", body: bytes | None = None
) -> ModelStreamInferResponse:
    """An answer to a request, in the form of Triton's: a tensor that is the request's, or an error."""
    inner = ModelInferResponse(model_name=to.model_name, model_version="1", id=to.id)
    if final is not None:
        inner.parameters["triton_final_response"].bool_param = final
    if not error:
        inner.raw_output_contents.append(to.raw_input_contents[0] if body is None else body)
    return ModelStreamInferResponse(error_message=error, infer_response=inner)


class StreamingUpstream(grpc.GenericRpcHandler):
    """A server with streams. `answer` says how it answers a request; plain models do so in order, once each.

    `decoupled` are its decoupled models; one that is `foreign` tells nothing of its models. It reads one request after
    the other, and waits for `release` before answers; one that is `dead` before all of them.
    """

    def __init__(self) -> None:
        self.received: list[bytes] = []
        self.metadata: list[dict[str, Any]] = []
        self.deadlines: list[float | None] = []
        self.configs: list[str] = []
        self.name = "triton"
        self.decoupled: set[str] = set()
        self.foreign = False
        self.silent = False
        self.dead = False
        self.answer: Callable[[ModelInferRequest], list[ModelStreamInferResponse]] = lambda r: [response(r)]
        self.ending: tuple[grpc.StatusCode, str] | None = None
        self.initial_metadata: tuple = ()
        self.release, self.reads = asyncio.Event(), asyncio.Event()
        self.release.set()
        self.reads.set()
        self.arrived, self.half_closed, self.cancelled = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.address = ""

    @property
    def requests(self) -> list[ModelInferRequest]:
        """What it got, parsed."""
        return [ModelInferRequest.FromString(message) for message in self.received]

    async def start(self) -> None:
        """Serve on a free port."""
        self._server = grpc.aio.server(handlers=(self,), options=(("grpc.so_reuseport", 0),))
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        await self._server.start()

    async def stop(self) -> None:
        """Cut all connections."""
        await self._server.stop(None)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        """Streams, and what Guard itself asks for."""
        method = handler_call_details.method
        if method == STREAM:
            return grpc.stream_stream_rpc_method_handler(self._stream)

        async def answer(message: bytes, context: Any) -> bytes:
            if self.dead:
                await self.release.wait()
            if method == SERVER_LIVE:
                return b""
            if method == SERVICE + "ServerMetadata":
                return ServerMetadataResponse(name=self.name).SerializeToString()
            asked = ModelConfigRequest.FromString(message).name
            self.configs.append(asked)
            if self.silent:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "busy")
            if self.foreign:
                await context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
            config = ModelConfigResponse()
            config.config.model_transaction_policy.decoupled = asked in self.decoupled
            return config.SerializeToString()

        return grpc.unary_unary_rpc_method_handler(answer)

    async def _stream(self, _messages: object, context: Any) -> None:
        self.metadata.append(dict(context.invocation_metadata()))
        self.deadlines.append(context.time_remaining())
        try:
            if self.initial_metadata:
                await context.send_initial_metadata(self.initial_metadata)
            await self._converse(context)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    async def _converse(self, context: Any) -> None:
        todo: asyncio.Queue[bytes | None] = asyncio.Queue()

        async def read() -> None:
            await self.reads.wait()
            while (message := await context.read()) is not grpc.aio.EOF:
                self.received.append(message)
                self.arrived.set()
                todo.put_nowait(message)
                await self.reads.wait()
            self.half_closed.set()
            todo.put_nowait(None)

        reading = asyncio.create_task(read())
        try:
            while (message := await todo.get()) is not None:
                await self.release.wait()
                for each in self.answer(ModelInferRequest.FromString(message)):
                    await context.write(each.SerializeToString())
                if self.ending is not None:
                    await context.abort(*self.ending, (("x-why", "told"),))
            if self.dead:
                await self.release.wait()
        finally:
            reading.cancel()
