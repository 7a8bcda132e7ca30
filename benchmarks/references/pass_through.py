"""The least that a proxy in Python costs: raw bytes to the upstream and back.

`python -m benchmarks.references.pass_through HOST:PORT`. No parsing, no metadata, no metrics, no deadlines: the floor
that Guard's own work is measured from.
"""

from __future__ import annotations

import asyncio
import sys

import grpc

_METHOD = "/inference.GRPCInferenceService/ModelInfer"
_ANY_SIZE = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


async def serve(upstream: str) -> None:
    """Serve on a free port of this machine, which is printed, until the process is told to end."""
    forward = grpc.aio.insecure_channel(upstream, options=_ANY_SIZE).unary_unary(_METHOD, None, None)

    async def answer(message: bytes, _context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        reply: bytes = await forward(message)
        return reply

    handlers = {"ModelInfer": grpc.unary_unary_rpc_method_handler(answer)}
    server = grpc.aio.server(options=_ANY_SIZE)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("inference.GRPCInferenceService", handlers)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)  # noqa: T201 - what starts it reads this
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
