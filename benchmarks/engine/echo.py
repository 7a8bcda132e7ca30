"""A client in a process of its own that calls an echo method at a steady rate and prints each latency, in seconds."""

from __future__ import annotations

import asyncio
import json
import sys
import time

import grpc

METHOD = "/benchmark.Echo/Echo"
_PAYLOAD = bytes(3000)


async def measure(address: str, duration_s: float, rate: float) -> list[float]:
    """Latencies of calls that start `rate` times a second, whether earlier ones were answered or not."""
    async with grpc.aio.insecure_channel(address) as channel:
        call = channel.unary_unary(METHOD, request_serializer=None, response_deserializer=None)
        await call(_PAYLOAD)
        latencies: list[float] = []

        async def once() -> None:
            started = time.perf_counter()
            await call(_PAYLOAD)
            latencies.append(time.perf_counter() - started)

        begun = time.perf_counter()
        running = []
        for number in range(int(duration_s * rate)):
            await asyncio.sleep(max(0.0, begun + number / rate - time.perf_counter()))
            running.append(asyncio.create_task(once()))
        await asyncio.gather(*running)
        return latencies


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(measure(sys.argv[1], float(sys.argv[2]), float(sys.argv[3])))))
