"""Clients of a Guard: so many requests a second, whether it answers or not, and what came of each."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc
import numpy as np

METHOD = "/inference.GRPCInferenceService/ModelInfer"
_STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
LEAVES = ("x-leaves", "true")
"""The metadata of a request that its client will cancel, for servers that are to wait for that."""
_WHERE_READY = '{"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": ""}}'
_TRIES, _PAUSE_S = 20, 0.5
_PATIENCE_S = 20.0
_OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_reconnect_backoff_ms", 500),
]


@dataclass(slots=True)
class Answers:
    """What clients heard: when, how long it took, and the status."""

    at_s: list[float] = field(default_factory=list)
    took_s: list[float] = field(default_factory=list)
    codes: list[str] = field(default_factory=list)
    problems: Counter[str] = field(default_factory=Counter)

    def add(self, begun_s: float, code: str, problem: str = "") -> None:
        """Note one."""
        now = time.perf_counter()
        self.at_s.append(now)
        self.took_s.append(now - begun_s)
        self.codes.append(code)
        if problem:
            self.problems[code + ": " + problem.partition(" [guard_")[0][:160]] += 1

    def took(self, *codes: str, since_s: float = 0.0, until_s: float = float("inf")) -> list[float]:
        """How long those took that ended so, or anyhow, within a time."""
        rows = zip(self.at_s, self.took_s, self.codes, strict=True)
        return [took for at, took, code in rows if since_s <= at < until_s and (not codes or code in codes)]

    def lost(self) -> int:
        """How many ended otherwise than well."""
        return len(self.codes) - self.codes.count("OK")

    def worst(self) -> str:
        """The most frequent problem, for people; "" if there was none."""
        return "".join(f" (most: {problem})" for problem, _ in self.problems.most_common(1))


def quantile_ms(took_s: Sequence[float], share: float) -> float:
    """A quantile, in milliseconds; of none it is 0."""
    return float(np.quantile(took_s, share)) * 1000 if took_s else 0.0


class Stream:
    """A client's stream, which is open. `call` is gRPC's."""

    def __init__(self, call: grpc.aio.StreamStreamCall[bytes, bytes], body: bytes) -> None:
        self._call = call
        self._body = body

    async def ask(self) -> None:
        """Send a request, and wait for its answer."""
        await self._call.write(self._body)
        await self._call.read()

    async def end(self, *, ask: bool) -> tuple[str, float]:
        """How the stream ends: the status, "" if it takes longer than anybody waits, and seconds.

        Whoever asks sends a request first. On a stream that is ending gRPC's client may take its own failure to write
        for the status.
        """
        begun_s = time.perf_counter()
        if ask:
            await self._call.write(self._body)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE_S):
                return (await self._call.code()).name, time.perf_counter() - begun_s
        return "", _PATIENCE_S


class Client:
    """A channel to one or more Guards, and a request."""

    def __init__(self, channel: grpc.aio.Channel, body: bytes) -> None:
        self._call = channel.unary_unary(METHOD, None, None)
        self._stream = channel.stream_stream(_STREAM, None, None)
        self._body = body

    @asynccontextmanager
    async def stream(self) -> AsyncIterator[Stream]:
        """A stream on which a request was answered."""
        call = self._stream(None)
        try:
            stream = Stream(call, self._body)
            await stream.ask()
            yield stream
        finally:
            call.cancel()

    async def ask(self, answers: Answers, *, timeout_s: float | None = None, begun_s: float | None = None) -> str:
        """Send the request once: the status."""
        begun_s = begun_s or time.perf_counter()
        code, problem = await self.send(timeout_s)
        answers.add(begun_s, code, problem)
        return code

    async def send(self, timeout_s: float | None) -> tuple[str, str]:
        """Send the request once: the status, and what went wrong, "" if nothing did."""
        try:
            await self._call(self._body, timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            return error.code().name, error.details() or ""
        return "OK", ""

    async def ask_and_leave(self, after_s: float) -> None:
        """Send the request, which says so, and cancel it after a time."""
        call = self._call(self._body, metadata=(LEAVES,))
        await asyncio.sleep(after_s)
        call.cancel()

    @asynccontextmanager
    async def traffic(self, rate: float, *, timeout_s: float | None = None) -> AsyncIterator[Answers]:
        """Send so many a second, whether earlier ones were answered or not; at the end all are waited for.

        A request's time begins when it was due, so that a client that falls behind hides nothing.
        """
        answers, running, over = Answers(), set[asyncio.Task[str]](), asyncio.Event()

        async def send() -> None:
            due = time.perf_counter()
            while not over.is_set():
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                task = asyncio.create_task(self.ask(answers, timeout_s=timeout_s, begun_s=due))
                running.add(task)
                task.add_done_callback(running.discard)
                due += 1 / rate

        sending = asyncio.create_task(send())
        try:
            yield answers
        finally:
            over.set()
            await sending
            await asyncio.gather(*running)

    async def for_a_time(self, rate: float, seconds: float, *, timeout_s: float | None = None) -> Answers:
        """Traffic for so many seconds."""
        async with self.traffic(rate, timeout_s=timeout_s) as answers:
            await asyncio.sleep(seconds)
        return answers

    async def in_turn(self, clients: int, seconds: float) -> Answers:
        """So many clients for so long, each of which waits for its answers."""
        answers, ends_s = Answers(), time.perf_counter() + seconds

        async def one() -> None:
            while time.perf_counter() < ends_s:
                await self.ask(answers)

        await asyncio.gather(*(one() for _ in range(clients)))
        return answers


async def answers_well(clients: Client) -> bool:
    """Whether one of a few requests is answered well: a busy machine may leave one unscreened."""
    for _ in range(_TRIES):
        if await clients.ask(Answers()) == "OK":
            return True
        await asyncio.sleep(_PAUSE_S)
    return False


@asynccontextmanager
async def client(body: bytes, *addresses: str) -> AsyncIterator[Client]:
    """A client of an address, or of those in turn that say by grpc.health.v1 that they are ready."""
    balanced = [("grpc.service_config", _WHERE_READY)] if len(addresses) > 1 else []
    async with grpc.aio.insecure_channel("ipv4:" + ",".join(addresses), [*_OPTIONS, *balanced]) as channel:
        yield Client(channel, body)
