"""What the client of a stream hears, and in which order: the upstream's answers, and Guard's own in their turn."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import grpc

from guard.errors import RequestTooSlow
from guard.values import Decision, InferenceOutcome, Mode
from guard.wire.answer import MAX_COMPRESSED_BYTES, Context
from guard.wire.ledger import Ledger
from guard.wire.pace import GRACE_S, LEAST_BYTES_PER_S
from guard.wire.passage import Answer
from guard.wire.receive import compression_of
from guard.wire.status import Metadata
from guard.wire.stream_messages import Asked, error_response, marked, read_head
from guard.wire.upstream import Reply
from guard.wire.upstream_stream import UpstreamStream

MAX_UNANSWERED = 1024
"""Requests of one stream that are forwarded and not answered. The client's next ones wait."""

_LOOKS = 4
_now_s = time.monotonic

_ENDING_ERRORS = ("triton_grpc_error", "true")
"""The metadata by which a client of Triton asks that an error ends the stream."""


class Answers:
    """Says to the client what is due, one message at a time.

    `end` is how the stream ends, once that is known; `ends_on_error` whether an error of Guard's own ends it. `settled`
    is told what became of each request that was forwarded. `writer` is the task that waits for the client to take an
    answer: who cancelled it would not know when the client has.
    """

    def __init__(self, context: Context, metadata: Metadata, settled: Callable[[str, InferenceOutcome], None]) -> None:
        self.end: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.doomed = False
        self.ends_on_error = _ENDING_ERRORS in metadata
        self._context = context
        self._ledger: Ledger[bytes | Answer] = Ledger(settled)
        self._speaking = asyncio.Lock()
        self._spoken = False
        self.writer: asyncio.Task[Any] | None = None
        self._patience_ends_s = 0.0
        self._moved = asyncio.Event()

    async def expect(self, request: Asked, listed: str, decision: Decision | None, *, decoupled: bool) -> None:
        """Note a request that is about to be forwarded, to a `listed` model. Waits where too many are unanswered."""
        await self._until_room()
        told = None if decision is None or decision.mode is Mode.SHADOW else decision
        self._ledger.forwarded(request.id, request.model, listed, told, decoupled=decoupled)

    async def refuse(self, request: Asked, reply: Reply, marks: Metadata, *, decoupled: bool) -> None:
        """Answer a request with an error of Guard's own, in its turn."""
        await self._until_room()
        async with self._speaking:
            await self._say(self._ledger.say(self._error(request, reply, marks), decoupled=decoupled))

    async def relay(self, response: bytes, instead: Reply | None = None) -> None:
        """Pass on an answer of the upstream, marked with the verdict on its request; or an error `instead`."""
        async with self._speaking:
            head = read_head(response)
            decision = self._ledger.answered(head)
            answer: bytes | Answer = response if decision is None else marked(response, decision)
            if instead is not None:
                request = Asked(head.id, head.model) if head else Asked()
                answer = self._error(request, instead, ())
            due = self._ledger.due()
            self._moved.set()
            await self._say([answer, *due])

    async def greet(self, upstream: UpstreamStream) -> None:
        """Pass on the upstream's initial metadata, unless something was said before."""
        async with self._speaking:
            if not self._spoken and (metadata := await upstream.metadata()):
                self._spoken = True
                await self._context.send_initial_metadata(metadata)

    def go_like(self, message: bytes) -> None:
        """Compress answers as a message of the client came, unless something was said before. Large ones go as is."""
        compression = compression_of(message)
        if compression is not grpc.Compression.NoCompression and not self._spoken:
            self._context.set_compression(compression)

    async def over(self, end: Reply) -> None:
        """End the stream once Guard has said what it still has to say."""
        async with self._speaking:
            await self._say(self._ledger.rest())
            await self._say([Answer(end, ())])

    async def watch(self) -> None:
        """Look whether the client takes its answers: requests whose turn does not come are held meanwhile.

        Raises:
            RequestTooSlow: it does not.
        """
        while self.writer is None or _now_s() < self._patience_ends_s:  # noqa: ASYNC110 - it is a deadline that moves
            await asyncio.sleep(GRACE_S / _LOOKS)
        raise RequestTooSlow(
            "the client did not read its answers: open the stream again, and send what was not answered"
        )

    async def written(self) -> None:
        """Wait until the client has what is on its way: gRPC drops the status of a stream that it still writes to."""
        if self.writer is not None:
            await asyncio.wait({self.writer})

    def owed(self) -> bool:
        """Whether the upstream has not answered all that was forwarded, or may not have."""
        return self._ledger.owed()

    def close(self) -> None:
        """Expect no more answers: of what is not answered, nobody knows what became."""
        self._ledger.rest()

    def _error(self, request: Asked, reply: Reply, marks: Metadata) -> bytes | Answer:
        if not self.ends_on_error:
            return error_response(reply.details, marks, request)
        self.doomed = True
        return Answer(reply, marks)

    async def _say(self, answers: Sequence[bytes | Answer]) -> None:
        for answer in answers:
            if self.end.done():
                return
            if isinstance(answer, Answer):
                spoken = replace(answer.reply, initial_metadata=()) if self._spoken else answer.reply
                self.end.set_result(replace(answer, reply=spoken))
                return
            self._spoken = True
            if len(answer) > MAX_COMPRESSED_BYTES:
                self._context.disable_next_message_compression()
            await self._write(answer)

    async def _write(self, answer: bytes) -> None:
        # Neither a timer for each nor a task of its own, which alone costs a tenth of all that a message does.
        self.writer = asyncio.current_task()
        self._patience_ends_s = _now_s() + GRACE_S + len(answer) / LEAST_BYTES_PER_S
        try:
            await self._context.write(answer)
        finally:
            self.writer = None
        if self.end.done():
            raise asyncio.CancelledError  # only this task was left

    async def _until_room(self) -> None:
        while len(self._ledger) >= MAX_UNANSWERED:
            self._moved.clear()
            await self._moved.wait()


def stopping(stream_id: str) -> Reply:
    """How a stream ends that Guard outlived."""
    return Reply(
        grpc.StatusCode.UNAVAILABLE,
        f"guard is stopping: open the stream again, and send what was not answered [guard_id={stream_id}]",
    )
