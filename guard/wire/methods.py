"""The methods of the v2 service that Guard screens, passes or refuses. What isn't listed is not let through."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import DecodeError

from guard.errors import GuardError, MalformedRequest, MethodDenied, Unsupported
from guard.wire.answer import Context, client_of, deadline_s, identified, refuse, send
from guard.wire.metadata import to_upstream
from guard.wire.passage import METHOD
from guard.wire.ports import WireMetrics
from guard.wire.receive import Packing, receive
from guard.wire.shared_memory import Method, Regions
from guard.wire.status import Metadata, refusal_trailers
from guard.wire.stream import STREAM_METHOD
from guard.wire.upstream import Call, Reply, Upstream

SERVICE = "inference.GRPCInferenceService"

PASSED = frozenset(
    {
        "ServerLive",
        "ServerReady",
        "ModelReady",
        "ServerMetadata",
        "ModelMetadata",
        "ModelConfig",
        "ModelStatistics",
        "RepositoryIndex",
    }
)
DENIED = frozenset(
    {
        "RepositoryModelLoad",
        "RepositoryModelUnload",
        "SystemSharedMemoryStatus",
        "SystemSharedMemoryRegister",
        "SystemSharedMemoryUnregister",
        "CudaSharedMemoryStatus",
        "CudaSharedMemoryRegister",
        "CudaSharedMemoryUnregister",
        "TraceSetting",
        "LogSettings",
    }
)
STREAM = "ModelStreamInfer"

Answer: TypeAlias = Callable[[AsyncIterator[bytes], Context], Awaitable[bytes]]
StreamAnswer: TypeAlias = Callable[[AsyncIterator[bytes], Context], Awaitable[None]]
_MethodHandler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class Methods(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # generic in the stubs only
    """Finds the handler of a method. Bytes go in and out: nothing is parsed here.

    Every handler is one for streams, which on the wire look the same, and reads its messages itself (see `receive`).
    """

    def __init__(
        self,
        model_infer: Answer,
        model_stream_infer: StreamAnswer,
        upstream: Upstream,
        metrics: WireMetrics,
        max_message_bytes: int,
        *,
        regions: Regions | None = None,
    ) -> None:
        self._upstream = upstream
        self._metrics = metrics
        self._max_message_bytes = max_message_bytes
        self._handlers: dict[str, _MethodHandler] = {METHOD: grpc.stream_unary_rpc_method_handler(model_infer)}
        self._handlers |= {_path(name): self._passed(_path(name)) for name in PASSED}
        self._handlers |= {_path(name): self._refused(denied(name)) for name in DENIED}
        if regions is not None:
            self._handlers |= {_path(name): self._own(method) for name, method in regions.methods.items()}
        self._handlers[STREAM_METHOD] = grpc.stream_stream_rpc_method_handler(model_stream_infer)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> _MethodHandler:
        """The handler of the method that is called; one that refuses it, if Guard doesn't know it."""
        method = handler_call_details.method
        known = self._handlers.get(method)
        return known or self._refused(Unsupported(f"guard does not know {method}, so it does not let it through"))

    def _passed(self, path: str) -> _MethodHandler:
        async def forward(_messages: AsyncIterator[bytes], context: Context) -> bytes:
            metadata = to_upstream(context.invocation_metadata() or ())
            marks: Metadata = ()
            packing = Packing()
            with identified() as call_id:
                try:
                    message = await receive(context, self._max_message_bytes, packing)
                    client = client_of(context)
                    reply = await self._upstream.call(Call(path, message, metadata, deadline_s(context), client=client))
                except Exception as error:  # noqa: BLE001 - the boundary: every error becomes a status
                    reply, marks = refuse(error, self._metrics, call_id), refusal_trailers(call_id)
                return await send(context, reply, marks, packing)

        return grpc.stream_unary_rpc_method_handler(forward)

    def _own(self, method: Method) -> _MethodHandler:
        """A handler that answers in place of the guarded server."""

        async def handler(_messages: AsyncIterator[bytes], context: Context) -> bytes:
            marks: Metadata = ()
            packing = Packing()
            with identified() as call_id:
                try:
                    message = await receive(context, self._max_message_bytes, packing)
                    reply = Reply(grpc.StatusCode.OK, body=_parsed(method, message, str(context.peer())))
                except Exception as error:  # noqa: BLE001 - as above
                    reply, marks = refuse(error, self._metrics, call_id), refusal_trailers(call_id)
                return await send(context, reply, marks, packing)

        return grpc.stream_unary_rpc_method_handler(handler)

    def _refused(self, error: GuardError) -> _MethodHandler:
        """A handler that answers before it reads anything, whether the method is unary or a stream."""

        async def handler(_messages: AsyncIterator[bytes], context: Context) -> None:
            with identified() as call_id:
                await send(context, refuse(error, self._metrics, call_id), refusal_trailers(call_id))

        return grpc.stream_stream_rpc_method_handler(handler)


def denied(name: str) -> MethodDenied:
    """Why Guard refuses a method, or a path, that would change or show what is screened."""
    return MethodDenied(
        f"guard does not let {name} through, because it changes or exposes what is screened; "
        "call the guarded server itself from where its operator may"
    )


def _parsed(method: Method, message: bytes, caller: str) -> bytes:
    try:
        return method(message, caller)
    except DecodeError as error:
        raise MalformedRequest("protobuf can't parse the message") from error


def _path(name: str) -> str:
    return f"/{SERVICE}/{name}"
