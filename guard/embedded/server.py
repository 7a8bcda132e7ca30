"""The gRPC server: the v2 methods that answer for one or more ONNX models."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import Message

import guard
from guard.config import MEBIBYTE
from guard.embedded.describe import configuration, metadata, statistics
from guard.embedded.model import VERSION, ServedModel
from guard.errors import BackendError, ConfigError, MalformedRequest
from guard.pb import grpc_service_pb2 as v2

SERVICE = "inference.GRPCInferenceService"
NAME = "guard-embedded"
EXTENSIONS = ("binary_tensor_data", "model_configuration", "statistics")

_THREADS = 2
_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
_Method: TypeAlias = Callable[[Any, _Context], Awaitable[Message]]


class EmbeddedServer:
    """Serves ONNX models, by name, over the v2 gRPC protocol on the CPU.

    Methods of the protocol that would change the server (model control, shared memory, tracing) and streams are
    UNIMPLEMENTED. Inference runs on two threads of its own, so that the event loop stays free.

    Raises:
        ConfigError: a model file can't be read, or has tensors that the protocol can't carry.
        BackendError: ONNX Runtime can't load a model file.
    """

    def __init__(
        self, models: Mapping[str, Path], *, address: str = "127.0.0.1:0", max_message_bytes: int = 64 * MEBIBYTE
    ) -> None:
        self._models = {name: ServedModel(name, path) for name, path in models.items()}
        self._address = address
        self._max_message_bytes = max_message_bytes
        self._running: tuple[grpc.aio.Server, ThreadPoolExecutor] | None = None

    async def start(self) -> int:
        """Bind the address and serve. Returns the port, which the system chose if the address says port 0.

        Raises:
            ConfigError: the address can't be bound.
        """
        server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", self._max_message_bytes),
                ("grpc.max_send_message_length", self._max_message_bytes),
                ("grpc.so_reuseport", 0),  # or a second server on a busy port would silently take half of its calls
            ]
        )
        try:
            port = server.add_insecure_port(self._address)
        except RuntimeError as exc:
            raise ConfigError(
                f"the embedded server can't listen on {self._address}: the address is in use or not one of this "
                "machine; stop what uses it, or choose another"
            ) from exc
        threads = ThreadPoolExecutor(_THREADS, thread_name_prefix=NAME)
        server.add_generic_rpc_handlers((_handlers(_Methods(self._models, threads)),))
        await server.start()
        self._running = server, threads
        return port

    async def stop(self, grace_s: float) -> None:
        """Take no new calls, give the running ones `grace_s` seconds, and close."""
        if self._running is None:
            return
        server, threads = self._running
        self._running = None
        await server.stop(grace_s)
        await asyncio.to_thread(threads.shutdown, cancel_futures=True)


class _Methods:
    """The methods, by the names that the protocol gives them in snake case."""

    def __init__(self, models: Mapping[str, ServedModel], threads: ThreadPoolExecutor) -> None:
        self._models = models
        self._threads = threads

    async def server_live(self, _request: v2.ServerLiveRequest, _context: _Context) -> Message:
        return v2.ServerLiveResponse(live=True)

    async def server_ready(self, _request: v2.ServerReadyRequest, _context: _Context) -> Message:
        return v2.ServerReadyResponse(ready=True)

    async def model_ready(self, request: v2.ModelReadyRequest, _context: _Context) -> Message:
        return v2.ModelReadyResponse(ready=self._has(request.name, request.version))

    async def server_metadata(self, _request: v2.ServerMetadataRequest, _context: _Context) -> Message:
        return v2.ServerMetadataResponse(name=NAME, version=guard.__version__, extensions=EXTENSIONS)

    async def model_metadata(self, request: v2.ModelMetadataRequest, context: _Context) -> Message:
        return metadata(await self._find(request.name, request.version, context))

    async def model_config(self, request: v2.ModelConfigRequest, context: _Context) -> Message:
        return v2.ModelConfigResponse(config=configuration(await self._find(request.name, request.version, context)))

    async def model_statistics(self, request: v2.ModelStatisticsRequest, context: _Context) -> Message:
        if request.name and not self._has(request.name, request.version):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"requested model {request.name!r} is not available")
        models = [self._models[request.name]] if request.name else self._models.values()
        return v2.ModelStatisticsResponse(model_stats=map(statistics, models))

    async def repository_index(self, _request: v2.RepositoryIndexRequest, _context: _Context) -> Message:
        response = v2.RepositoryIndexResponse()
        for name in self._models:
            response.models.add(name=name, version=VERSION, state="READY")
        return response

    async def model_infer(self, request: v2.ModelInferRequest, context: _Context) -> Message:
        model = await self._find(request.model_name, request.model_version, context)
        started_ns = time.perf_counter_ns()
        loop = asyncio.get_running_loop()
        try:
            response, timings = await loop.run_in_executor(self._threads, model.infer, request, started_ns)
        except (MalformedRequest, BackendError) as error:
            model.counts.failed(time.perf_counter_ns() - started_ns)
            code = grpc.StatusCode.INVALID_ARGUMENT if isinstance(error, MalformedRequest) else grpc.StatusCode.INTERNAL
            await context.abort(code, str(error))
        model.counts.succeeded(time.perf_counter_ns() - started_ns, timings)
        return response

    def _has(self, name: str, version: str) -> bool:
        return name in self._models and version in {"", VERSION}

    async def _find(self, name: str, version: str, context: _Context) -> ServedModel:
        if not self._has(name, version):
            what = f"{name!r} version {version}" if name in self._models else repr(name)
            await context.abort(grpc.StatusCode.NOT_FOUND, f"Request for unknown model: {what} is not found")
        return self._models[name]


def _handlers(methods: _Methods) -> Any:
    table: dict[str, tuple[_Method, type[Message]]] = {
        "ServerLive": (methods.server_live, v2.ServerLiveRequest),
        "ServerReady": (methods.server_ready, v2.ServerReadyRequest),
        "ModelReady": (methods.model_ready, v2.ModelReadyRequest),
        "ServerMetadata": (methods.server_metadata, v2.ServerMetadataRequest),
        "ModelMetadata": (methods.model_metadata, v2.ModelMetadataRequest),
        "ModelConfig": (methods.model_config, v2.ModelConfigRequest),
        "ModelStatistics": (methods.model_statistics, v2.ModelStatisticsRequest),
        "RepositoryIndex": (methods.repository_index, v2.RepositoryIndexRequest),
        "ModelInfer": (methods.model_infer, v2.ModelInferRequest),
    }
    return grpc.method_handlers_generic_handler(
        SERVICE,
        {
            name: grpc.unary_unary_rpc_method_handler(
                method,
                request_deserializer=kind.FromString,
                response_serializer=lambda message: message.SerializeToString(),
            )
            for name, (method, kind) in table.items()
        },
    )
