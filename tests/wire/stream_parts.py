"""What streams are tested with: a client that reads answer by answer, and decisions by what a request holds."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import grpc

from guard.pb.grpc_service_pb2 import ModelInferRequest, ModelStreamInferResponse
from guard.values import Action, Decision, InferRequest, Mode, Verdict
from tests.support.waiting import PATIENCE_S
from tests.wire.parts import Decide, Running
from tests.wire.stream_upstream import STREAM

MARKS = ("guard_verdict", "guard_id")

Screen = Callable[[InferRequest], Awaitable[Decision]]


class Talk:
    """A client's stream."""

    def __init__(self, call: grpc.aio.StreamStreamCall) -> None:
        self.call = call
        self._reading: asyncio.Future[Any] | None = None

    async def send(self, *requests: ModelInferRequest | bytes) -> None:
        """Send requests."""
        for each in requests:
            await self.call.write(each if isinstance(each, bytes) else each.SerializeToString())

    async def hear(self) -> ModelStreamInferResponse:
        """The next answer."""
        message = await self._read(PATIENCE_S)
        assert isinstance(message, bytes), "the stream is over"
        return ModelStreamInferResponse.FromString(message)

    async def hear_all(self, number: int) -> list[ModelStreamInferResponse]:
        """So many answers."""
        return [await self.hear() for _ in range(number)]

    async def silent(self) -> bool:
        """Whether nothing is heard for a moment."""
        try:
            await self._read(0.1)
        except TimeoutError:
            return True
        return False

    async def end(self) -> tuple[grpc.StatusCode, str, dict[str, Any]]:
        """Send no more, and wait for the end: status, message and trailing metadata."""
        with contextlib.suppress(asyncio.InvalidStateError, grpc.aio.BaseError):  # it may have ended
            await self.call.done_writing()
        return await self.ended()

    async def ended(self) -> tuple[grpc.StatusCode, str, dict[str, Any]]:
        """Wait for the end: status, message and trailing metadata."""
        with contextlib.suppress(grpc.aio.AioRpcError):
            heard = await self._read(PATIENCE_S)
            assert heard is grpc.aio.EOF, heard
        return await self.call.code(), await self.call.details() or "", dict(await self.call.trailing_metadata())

    async def _read(self, timeout_s: float) -> Any:
        # A read that is cancelled cancels the call.
        if self._reading is None:
            self._reading = asyncio.ensure_future(self.call.read())
            self._reading.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        async with asyncio.timeout(timeout_s):
            message = await asyncio.shield(self._reading)
        self._reading = None
        return message


@asynccontextmanager
async def talk(guard: Running, **options: Any) -> AsyncIterator[Talk]:
    """A stream of a client, cancelled at the end if it is still open."""
    call = guard.channel.stream_stream(STREAM)(**options)
    try:
        yield Talk(call)
    finally:
        call.cancel()


@dataclass
class ByValue:
    """Decides by the value that a request holds, and when it is let.

    Values named in `rejected` are adversarial; those in `held` wait for their event.
    """

    decide: Decide
    rejected: set[int] = field(default_factory=set)
    held: dict[int, asyncio.Event] = field(default_factory=dict)
    mode: Mode = Mode.ENFORCE
    delay_s: Callable[[], float] = lambda: 0.0
    now: int = 0
    most: int = 0

    async def __call__(self, asked: InferRequest) -> Decision:
        """Decide."""
        (tensor,) = asked.inputs
        assert tensor.raw is not None
        value = tensor.raw[0]
        self.now += 1
        self.most = max(self.now, self.most)
        try:
            await asyncio.sleep(self.delay_s())
            if value in self.held:
                await self.held[value].wait()
        finally:
            self.now -= 1
        bad = value in self.rejected
        verdict = Verdict.ADVERSARIAL if bad else Verdict.CLEAN
        action = Action.REJECT if bad and self.mode is Mode.ENFORCE else Action.FORWARD
        return replace(self.decide(verdict, action, mode=self.mode), id=f"d-{value}")


def marks(heard: ModelStreamInferResponse) -> tuple[str, ...]:
    """The verdict and the id that an answer carries."""
    parameters = heard.infer_response.parameters
    return tuple(parameters[name].string_param for name in MARKS if name in parameters)


def unmarked(heard: ModelStreamInferResponse) -> ModelStreamInferResponse:
    """An answer without Guard's marks."""
    copy = ModelStreamInferResponse()
    copy.CopyFrom(heard)
    for name in [name for name in copy.infer_response.parameters if name.startswith("guard_")]:
        del copy.infer_response.parameters[name]
    return copy


def taken_bytes(guard: Running) -> int:
    """What requests in flight hold."""
    assert guard.server._running is not None
    return guard.server._running[1].room._taken


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what has to happen."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - it happens in other tasks, which have no event for it
            await asyncio.sleep(0.005)
