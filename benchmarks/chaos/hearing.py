"""A server that counts the cancellations that reach it: the embedded one, behind a door that hears of each call."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc

from benchmarks.chaos.load import METHOD


class Door(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # generic in its stubs alone
    """Passes unary calls on to an address, and their cancellations too. `cancelled` counts those of inferences."""

    def __init__(self, address: str) -> None:
        self.cancelled = 0
        self._channel = grpc.aio.insecure_channel(address)
        self._server = grpc.aio.server(handlers=(self,), options=(("grpc.so_reuseport", 0),))
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    async def start(self) -> None:
        """Serve."""
        await self._server.start()

    async def stop(self) -> None:
        """Cut all connections."""
        await self._server.stop(None)
        await self._channel.close(None)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
        """Take any method."""
        method = handler_call_details.method

        async def pass_on(message: bytes, context: Any) -> bytes:
            try:
                answer: bytes = await self._channel.unary_unary(method, None, None)(message)
            except asyncio.CancelledError:
                self.cancelled += method == METHOD
                raise
            except grpc.aio.AioRpcError as error:
                await context.abort(error.code(), error.details() or "")
            return answer

        return grpc.unary_unary_rpc_method_handler(pass_on)
