"""What Guard's CPU goes into: a bare proxy, and what Guard does added to it step by step.

`python -m benchmarks.wire.steps`. Each step is a proxy that does what the one before does, made of Guard's own parts;
the last is Guard itself with screening off. They take turns, in another order in each round.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated

import grpc
import torch
import typer
from rich.console import Console

from benchmarks.wire import parts
from benchmarks.wire.measure import load
from benchmarks.wire.payloads import PAYLOADS, Payload, images, over_grpc, write_model
from guard.channel import AioChannel, Link
from guard.config import Settings
from guard.config import Upstream as UpstreamSettings
from guard.observe.metrics import Metrics
from guard.wire.answer import Context, send
from guard.wire.infer import caller_of
from guard.wire.listener import server_options
from guard.wire.message import parse, take_apart
from guard.wire.passage import METHOD
from guard.wire.receive import Packing, receive, transport_limit
from guard.wire.upstream import Call, Upstream
from tests.support.triton import Triton

STEPS = {
    "options": "Guard's limits, keepalives and imports; the message read and looked at by the handler",
    "call": "who calls; metadata, deadline and trailers; the breaker, and what the server answered",
    "parse": "the request read, checked and written in canonical form",
}
"""What is added to the bare proxy, and then to the step before. After them Guard adds the rest."""

_SEED = 0


async def serve(step: str, address: str) -> None:
    """Serve as far as a step goes, on a free port of this machine, which is printed, until it is told to end."""
    settings = Settings(upstream=UpstreamSettings(address=address))
    limit = settings.upstream.max_message_bytes
    bare = AioChannel(Link(settings.upstream), transport_limit(limit))
    upstream = Upstream(settings.upstream, Metrics())

    async def answer(_messages: AsyncIterator[bytes], context: Context) -> bytes:
        packing = Packing()
        if step == "options":
            reply: bytes = await bare.unary_unary(METHOD)(await receive(context, limit, packing))
            return reply
        caller = caller_of(context)
        message = await receive(context, limit, packing)
        if step == "parse":
            message = parse(take_apart(message)).canonical()
        return await send(
            context, await upstream.call(Call(METHOD, message, caller.metadata, caller.remaining_s())), (), packing
        )

    service, _, method = METHOD.removeprefix("/").partition("/")
    server = grpc.aio.server(options=server_options(settings, limit))
    handlers = {method: grpc.stream_unary_rpc_method_handler(answer)}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, handlers)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)  # noqa: T201 - what starts it reads this
    await server.wait_for_termination()


@contextmanager
def proxies(payloads: list[Payload], folder: Path) -> Iterator[list[parts.Variant]]:
    """Triton, and the proxies in front of it."""
    models = {payload.model: write_model(payload, folder) for payload in payloads}
    with ExitStack() as held:
        (first, onnx), *others = models.items()
        triton = Triton(folder, name=first, onnx=onnx, others=dict(others))
        held.callback(triton.stop)
        triton.start()
        guard = held.enter_context(parts.guard(triton.address, folder, "off", {"unlisted_models": "pass"}))
        bare = held.enter_context(parts.pass_through(triton.address))
        steps = [held.enter_context(parts.python(__spec__.name, step, triton.address, name=step)) for step in STEPS]
        yield [bare, *steps, parts.ready(guard, "off")[0]]


def main(
    rounds: Annotated[int, typer.Option(min=1, help="How often each is measured.")] = 20,
    requests: Annotated[int, typer.Option(min=1, help="Requests a reading.")] = 160,
    at_once: Annotated[int, typer.Option(min=1, help="So many of them at a time.")] = 8,
) -> None:
    """Print a table: CPU for a request, by that of the bare proxy in the same round."""
    torch.set_num_threads(1)
    rng, console = random.Random(_SEED), Console()  # noqa: S311 - an order, no secret
    payloads = list(PAYLOADS[:3])
    with tempfile.TemporaryDirectory() as folder, proxies(payloads, Path(folder)) as variants, load() as sends:
        for payload in payloads:
            body = Path(folder) / payload.model
            body.write_bytes(over_grpc(payload, images(payload.shape, payload.items, _SEED)))
            readings: dict[str, list[float]] = {variant.name: [] for variant in variants}
            for number in range(rounds):
                for variant in rng.sample(variants, len(variants)):
                    cell = sends.run(variant, body, requests, at_once, of=(number, payload.name))
                    if cell.failed:
                        raise RuntimeError(f"{variant.name} failed, as {cell.problem}")
                    readings[variant.name].append(cell.cpu_s or 0.0)
            _print(payload, readings, console.print)


def _print(payload: Payload, readings: dict[str, list[float]], show: Callable[[str], object]) -> None:
    floor = next(iter(readings.values()))
    for name, values in readings.items():
        ratio = statistics.median(value / least for value, least in zip(values, floor, strict=True))
        show(f"{payload.name} | {name} | {statistics.median(values) * 1e6:.0f} us | {ratio:.2f}")


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in STEPS:
        asyncio.run(serve(sys.argv[1], sys.argv[2]))
    else:
        typer.run(main)
