"""A server that counts the cancellations that reach it: the embedded one, behind a door that hears of each call.

An inference whose client will leave is answered to nobody: the door has it until it is cancelled. So each that comes in
has to be, and none is cancelled just as its answer goes out, of which nobody could say whether it should have been.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import grpc

from benchmarks.chaos.load import LEAVES, METHOD

_PATIENCE_S = 10.0


class Door(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # generic in its stubs alone
    """Passes unary calls on to an address, and their cancellations too.

    `held` counts inferences whose clients leave, and `cancelled` those of them that it hears are cancelled.
    """

    def __init__(self, address: str) -> None:
        self.held = 0
        self.cancelled = 0
        self._channel = grpc.aio.insecure_channel(address)
        self._server = grpc.aio.server(handlers=(self,), options=(("grpc.so_reuseport", 0),))
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    async def start(self) -> None:
        """Serve."""
        await self._server.start()

    async def unheard(self) -> int:
        """How many cancellations it has not heard of, though it held the request; those under way have a time."""
        ends_s = time.perf_counter() + _PATIENCE_S
        while self.held > self.cancelled and time.perf_counter() < ends_s:  # noqa: ASYNC110 - many calls, no one event
            await asyncio.sleep(0.05)
        return self.held - self.cancelled

    async def stop(self) -> None:
        """Cut all connections."""
        await self._server.stop(None)
        await self._channel.close(None)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
        """Take any method."""
        method = handler_call_details.method

        async def pass_on(message: bytes, context: Any) -> bytes:
            leaves = method == METHOD and LEAVES in tuple(context.invocation_metadata())
            self.held += leaves
            try:
                answer: bytes = await self._channel.unary_unary(method, None, None)(message)
                if leaves:
                    await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled += leaves
                raise
            except grpc.aio.AioRpcError as error:
                await context.abort(error.code(), error.details() or "")
            return answer

        return grpc.unary_unary_rpc_method_handler(pass_on)
