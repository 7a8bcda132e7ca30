"""The methods of the v2 service that Guard screens, passes or refuses. What isn't listed is not let through."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

import grpc

from guard.errors import MethodDenied
from guard.wire import infer
from guard.wire.answer import Context, deadline_s, refuse, send
from guard.wire.metadata import to_upstream
from guard.wire.ports import WireMetrics
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

Unary: TypeAlias = Callable[[bytes, Context], Awaitable[bytes]]
_MethodHandler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class Methods(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # generic in the stubs only
    """Finds the handler of a method. Bytes go in and out: nothing is parsed here."""

    def __init__(self, model_infer: Unary, upstream: Upstream, metrics: WireMetrics) -> None:
        self._upstream = upstream
        self._metrics = metrics
        self._handlers: dict[str, _MethodHandler] = {infer.METHOD: grpc.unary_unary_rpc_method_handler(model_infer)}
        self._handlers |= {_path(name): self._passed(_path(name)) for name in PASSED}
        self._handlers |= {_path(name): self._denied(name) for name in DENIED}
        self._handlers[_path(STREAM)] = self._unimplemented(
            f"guard does not screen streams yet, so it does not let {STREAM} through; use ModelInfer"
        )

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> _MethodHandler:
        """The handler of the method that is called; one that refuses it, if Guard doesn't know it."""
        method = handler_call_details.method
        known = self._handlers.get(method)
        return known or self._unimplemented("guard does not know this method, so it does not let it through")

    def _passed(self, path: str) -> _MethodHandler:
        async def forward(message: bytes, context: Context) -> bytes:
            metadata = to_upstream(context.invocation_metadata() or ())
            try:
                reply = await self._upstream.call(Call(path, message, metadata, deadline_s(context)))
            except Exception as error:  # noqa: BLE001 - the boundary: every error becomes a status
                reply = refuse(error, self._metrics)
            return await send(context, reply)

        return grpc.unary_unary_rpc_method_handler(forward)

    def _denied(self, name: str) -> _MethodHandler:
        error = MethodDenied(
            f"guard does not let {name} through, because it changes or exposes what is screened; "
            "call the guarded server itself from where its operator may"
        )
        return _refusal(lambda: refuse(error, self._metrics))

    def _unimplemented(self, message: str) -> _MethodHandler:
        def reply() -> Reply:
            self._metrics.request_refused("unimplemented")
            return Reply(grpc.StatusCode.UNIMPLEMENTED, message)

        return _refusal(reply)


def _path(name: str) -> str:
    return f"/{SERVICE}/{name}"


def _refusal(reply: Callable[[], Reply]) -> _MethodHandler:
    """A handler that answers before it reads anything, whether the method is unary or a stream."""

    async def handler(_requests: AsyncIterator[bytes], context: Context) -> None:
        await send(context, reply())

    return grpc.stream_stream_rpc_method_handler(handler)
