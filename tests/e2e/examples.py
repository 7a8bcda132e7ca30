"""What Triton's client examples ask: sequences by every way, by clients with options of their own, in little time."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import tritonclient.grpc as grpc_client
import tritonclient.grpc.aio as grpc_aio
import tritonclient.http as http_client
import tritonclient.http.aio as http_aio

from tests.e2e import http_peer, peer

WAIT_S = 60.0
SLOW_S, SHORT_S = 1.5, 0.3
"""What the model takes that is asked, and how long a client waits that does not wait for it."""

ADDENDS, SUMS = (1.0, 5.0, -2.0), [1.0, 6.0, 4.0]


@dataclass(frozen=True)
class Ends:
    """Where a server listens."""

    grpc: str
    http: str


Ask = Callable[[Ends, np.ndarray], Any]


def marks(sequence: int | str, at: int, number: int) -> dict[str, Any]:
    """What the request `at` of a sequence of so many says of it."""
    return {"sequence_id": sequence, "sequence_start": at == 0, "sequence_end": at == number - 1}


def addend(value: float) -> grpc_client.InferInput:
    """What a sum is asked to add, for gRPC."""
    return peer.tensor(np.array([[value]], np.float32))


def total(result: Any) -> float:
    """The sum in an answer."""
    return float(result.as_numpy("output").item())


def sums(*sequences: int) -> Ask:
    """Sequences of sums by unary gRPC, in turns."""

    def ask(ends: Ends, _: np.ndarray) -> list[list[float]]:
        with closing(grpc_client.InferenceServerClient(ends.grpc)) as client:
            turns = [
                [total(client.infer("sum", [addend(value)], **marks(each, at, len(ADDENDS)))) for each in sequences]
                for at, value in enumerate(ADDENDS)
            ]
        return [list(one) for one in zip(*turns, strict=True)]

    return ask


def sums_over_http(*sequences: int, binary: bool = True) -> Ask:
    """The same over HTTP."""

    def ask(ends: Ends, _: np.ndarray) -> list[list[float]]:
        wanted = [http_client.InferRequestedOutput("output", binary_data=binary)]
        with closing(http_client.InferenceServerClient(ends.http)) as client:

            def one(sequence: int, at: int) -> float:
                made = http_peer.tensor(np.array([[ADDENDS[at]]], np.float32), binary=binary)
                return total(client.infer("sum", [made], outputs=wanted, **marks(sequence, at, len(ADDENDS))))

            turns = [[one(each, at) for each in sequences] for at in range(len(ADDENDS))]
        return [list(one) for one in zip(*turns, strict=True)]

    return ask


def sums_by_asyncio(ends: Ends, _: np.ndarray) -> list[float]:
    """A sequence by unary gRPC and asyncio."""

    async def ask() -> list[float]:
        async with grpc_aio.InferenceServerClient(ends.grpc) as client:
            return [
                total(await client.infer("sum", [addend(value)], **marks(11, at, len(ADDENDS))))
                for at, value in enumerate(ADDENDS)
            ]

    return asyncio.run(ask())


def sums_by_asyncio_over_http(ends: Ends, _: np.ndarray) -> list[float]:
    """A sequence over HTTP and asyncio."""

    async def ask() -> list[float]:
        async with http_aio.InferenceServerClient(ends.http) as client:
            made = [http_peer.tensor(np.array([[value]], np.float32)) for value in ADDENDS]
            return [
                total(await client.infer("sum", [each], **marks(12, at, len(made)))) for at, each in enumerate(made)
            ]

    return asyncio.run(ask())


def streamed(*steps: tuple[str, float, dict[str, Any]], timeout_s: float | None = None) -> Ask:
    """Requests over one stream of asyncio, to these models, and what is heard: ids and values, or errors."""

    def ask(ends: Ends, _: np.ndarray) -> list[Any]:
        async def requests() -> AsyncIterator[dict[str, Any]]:
            for number, (model, value, more) in enumerate(steps):
                made = addend(value) if model == "sum" else peer.tensor(np.array([value], np.float32))
                yield {"model_name": model, "inputs": [made], "request_id": f"{number}", **more}

        async def hear() -> list[Any]:
            async with grpc_aio.InferenceServerClient(ends.grpc) as client:
                heard = client.stream_infer(requests(), stream_timeout=timeout_s)
                return [
                    (result.get_response().id, total(result)) if error is None else error.message()
                    async for result, error in heard
                ]

        return asyncio.run(hear())

    return ask


def digits(sequence: int | str, *, http: bool = False) -> Ask:
    """Digits as a sequence."""

    def ask(ends: Ends, x: np.ndarray) -> list[Any]:
        if http:
            with closing(http_client.InferenceServerClient(ends.http)) as client:
                made = [http_peer.tensor(image[None]) for image in x]
                return [
                    http_peer.answer(client.infer("sequences", [each], **marks(sequence, at, len(x))))
                    for at, each in enumerate(made)
                ]
        with closing(grpc_client.InferenceServerClient(ends.grpc)) as client:
            answers = [
                client.infer("sequences", [peer.tensor(image[None])], **marks(sequence, at, len(x)))
                for at, image in enumerate(x)
            ]
        return [peer.answer(each.get_response()) for each in answers]

    return ask


def once(model: str, values: list[Any], *, http: bool = False, options: Any = (), **asked: Any) -> Ask:
    """Ask once, by a client with these options."""

    def ask(ends: Ends, _: np.ndarray) -> float:
        x = np.array(values, np.float32)
        if http:
            with closing(http_client.InferenceServerClient(ends.http, **dict(options))) as client:
                return total(client.infer(model, [http_peer.tensor(x)], **asked))
        with closing(grpc_client.InferenceServerClient(ends.grpc, **dict(options))) as client:
            return total(client.infer(model, [peer.tensor(x)], **asked))

    return ask


def once_by_asyncio(model: str, values: list[Any], *, options: Any = (), **asked: Any) -> Ask:
    """Ask once, by a client of asyncio with these options."""

    def ask(ends: Ends, _: np.ndarray) -> float:
        async def infer() -> float:
            async with grpc_aio.InferenceServerClient(ends.grpc, **dict(options)) as client:
                return total(await client.infer(model, [peer.tensor(np.array(values, np.float32))], **asked))

        return asyncio.run(infer())

    return ask


def called_back(ends: Ends, _: np.ndarray) -> Any:
    """Ask without waiting, for longer than the client has time; the error comes to a callback."""
    heard: queue.Queue[Any] = queue.Queue()
    with closing(grpc_client.InferenceServerClient(ends.grpc)) as client:
        made = [peer.tensor(np.array([SLOW_S], np.float32))]
        client.async_infer("slow", made, lambda result, error: heard.put(error or result), client_timeout=SHORT_S)
        raise heard.get(timeout=WAIT_S)


def stream_called_back(ends: Ends, _: np.ndarray) -> Any:
    """The same over a stream."""
    heard: queue.Queue[Any] = queue.Queue()
    with closing(grpc_client.InferenceServerClient(ends.grpc)) as client:
        client.start_stream(lambda result, error: heard.put(error or result), stream_timeout=SHORT_S)
        client.async_stream_infer("slow", [peer.tensor(np.array([SLOW_S], np.float32))])
        raise heard.get(timeout=WAIT_S)


def out_of_time(ask: Ask) -> Ask:
    """What a client of HTTP does whose time is up: it raises what its library has for it."""

    def outcome_of(ends: Ends, x: np.ndarray) -> Any:
        try:
            return ask(ends, x)
        except TimeoutError:
            return "timed out"

    return outcome_of
