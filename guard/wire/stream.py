"""ModelStreamInfer over gRPC: each message is screened like a call of its own, and forwarded in its turn.

A client's stream has one stream at the upstream, opened for the first message that is forwarded. Messages are screened
several at a time and forwarded in the order in which they came, which models of sequences need. Answers come back as
the upstream gives them. Each carries the verdict on its request where the protocol tells whose answer it is (see
`ledger`): always for models that answer once; for decoupled ones where the requests have ids of their own, or where
one request at a time is open and says when it is done. In shadow mode nothing shows.

Except in shadow mode the upstream gets a message once it is judged, whatever the policy says of overlap: one that is
rejected may not leave its mark on a sequence's state.

A rejection or an error of Guard's own is told as Triton tells its errors: in an answer's `error_message`, and the
stream goes on; or, for a client that set the metadata `triton_grpc_error: true`, as the status that ends the stream.
Guard's status codes show in the second form only, which clients of other servers get too (see `decoupled`). Where the
connection to the upstream is lost the stream ends, as it does where the upstream owes answers and gives no sign of life
(see `breaker`).

Nothing piles up: Guard reads from a client as fast as it may forward, and from the upstream as fast as the client
reads.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any

import grpc

from guard.errors import GuardError, MalformedRequest
from guard.wire.answer import Context, identified, refuse, send
from guard.wire.decoupled import TransactionPolicies
from guard.wire.infer import caller_of
from guard.wire.message import ParsedRequest, Split
from guard.wire.passage import Answer, Passage
from guard.wire.ports import WireMetrics
from guard.wire.receive import unpacked
from guard.wire.request import Request
from guard.wire.room import Held
from guard.wire.screen_only import refuse_stream
from guard.wire.status import refusal_trailers
from guard.wire.stream_answers import Answers, stopping
from guard.wire.stream_entrance import Entrance
from guard.wire.stream_judge import Judge, Judged
from guard.wire.stream_messages import Asked
from guard.wire.upstream import Reply, Upstream
from guard.wire.upstream_stream import UpstreamStream

STREAM_METHOD = "/inference.GRPCInferenceService/ModelStreamInfer"


class StreamHandler:
    """Serves ModelStreamInfer."""

    def __init__(self, passage: Passage, upstream: Upstream, metrics: WireMetrics, max_message_bytes: int) -> None:
        self.passage = passage
        self.upstream = upstream
        self.metrics = metrics
        self.max_message_bytes = max_message_bytes
        self.draining = asyncio.Event()

    async def answer(self, _messages: object, context: Context) -> None:
        """Answer a stream of serialised ModelInferRequests."""
        with identified() as stream_id:
            stream = Stream(self, context, stream_id)
            try:
                end = await stream.run()
            except grpc.aio.BaseError as error:
                raise asyncio.CancelledError from error  # gRPC took no message for the client, who is gone
            except Exception as error:  # noqa: BLE001 - the boundary: every error becomes a status
                end = Answer(refuse(error, self.metrics, stream_id), refusal_trailers(stream_id))
            await stream.answers.written()
            await send(context, end.reply, end.marks)

    def drain(self) -> None:
        """Read no more from clients, answer what was read, and end their streams."""
        self.draining.set()


class Stream:
    """One client's stream. `answers` is what it hears."""

    def __init__(self, handler: StreamHandler, context: Context, stream_id: str) -> None:
        self._handler = handler
        self._passage = handler.passage
        self._metrics = handler.metrics
        self._max_message_bytes = handler.max_message_bytes
        self._context = context
        self._id = stream_id
        self._whole = handler.passage.begin(stream_id, caller_of(context))  # what is traced of it is not its messages
        self._caller = self._whole.caller
        self.answers = Answers(context, self._caller.metadata, handler.metrics.upstream_streamed)
        self._policies = TransactionPolicies(handler.upstream, self._caller.metadata, self._caller.name)
        self._judge = Judge(handler.passage, self._policies, handler.metrics)
        self._entrance = Entrance(handler.passage.room, handler.max_message_bytes)
        self._upstream: UpstreamStream | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._drained = False

    async def run(self) -> Answer:
        """Pass messages and answers on until the stream is over: how it ends."""
        refuse_stream(self._caller.screen_only)
        self._start(self._take_in())
        self._start(self.answers.watch())
        try:
            end = await self.answers.end
            self._whole.code = end.reply.code.name
            return end
        finally:
            self._passage.trace(self._whole, STREAM_METHOD)
            self._policies.close()
            ended = self._tasks - {self.answers.writer}
            for task in ended:
                task.cancel()
            try:
                await asyncio.gather(*ended, return_exceptions=True)
            finally:  # the client may leave at this moment
                self.answers.close()
                if self._upstream is not None:
                    self._upstream.leave()

    async def _take_in(self) -> None:
        """Read the client's messages, as many as may be on their way, and see them off one after the other."""
        draining = asyncio.create_task(self._handler.draining.wait())
        try:
            before = asyncio.Event()
            before.set()
            while not self.answers.doomed and (message := await self._read(draining)) is not None:
                before = await self._see_off(message, before)
                del message  # or it would be held, and not counted, until the client sends another
            await before.wait()
        finally:
            draining.cancel()
        if self._upstream is not None:
            await self._upstream.finish()
        elif not self.answers.doomed:
            await self.answers.over(self._ending(Reply(grpc.StatusCode.OK)))

    async def _read(self, draining: asyncio.Task[bool]) -> bytes | None:
        """The client's next message; None once it sends no more, or Guard takes no more."""
        reading = asyncio.ensure_future(self._context.read())
        try:
            await asyncio.wait({reading, draining}, return_when=asyncio.FIRST_COMPLETED)
            if reading.done():
                return message if isinstance(message := reading.result(), bytes) else None
            self._drained = True
            return None
        finally:
            reading.cancel()

    async def _see_off(self, message: bytes, before: asyncio.Event) -> asyncio.Event:
        """Have a message passed on after the one that sets `before`. The event that is returned is its own."""
        came: Split | GuardError
        after, held = asyncio.Event(), None
        self.answers.go_like(message)
        try:
            came, held = await self._entrance.admit(message)
        except GuardError as error:
            came = error.with_traceback(None)  # whose frames would hold the message
        self._entrance.enter()

        def passed(_task: asyncio.Task[None]) -> None:  # for one that was cancelled before it began, too
            if held is not None:
                held.release()
            self._entrance.leave()
            after.set()

        self._start(self._pass_on(came, held, before)).add_done_callback(passed)
        return after

    async def _pass_on(self, came: Split | GuardError, held: Held | None, before: asyncio.Event) -> None:
        """Screen a message, then forward or answer it once the one before was.

        One that Guard answers is finished before that: nothing may be held for a client that does not read.
        """
        with identified() as call_id, self._metrics.inflight():
            request = self._passage.begin(call_id, self._caller, self._whole.trace)
            request.held = held and held.hand_over()
            try:
                judged = await self._judge.judge(request, came)
                del came
                if isinstance(judged.outcome, Reply):
                    self._finish(request, judged.outcome)
                await before.wait()
                decoupled = await judged.decoupled if judged.decoupled else False
                if self.answers.doomed:
                    return
                outcome = self._checked(judged, request)
                if isinstance(outcome, Reply):
                    asked = judged.asked
                    del judged
                    self._finish(request, outcome)
                    self.answers.ends_on_error |= await self._policies.foreign()
                    await self.answers.refuse(asked, outcome, request.marks, decoupled=decoupled)
                    return
                await self._send(request, judged.asked, outcome, decoupled=decoupled)
            finally:
                self._finish(request)

    def _finish(self, request: Request, reply: Reply | None = None) -> None:
        """Be done with a request, once, and hold nothing of it any more. What is only watched is finished later."""
        if request.answered_s is not None:
            return
        request.answered_s = time.perf_counter()
        request.code = "" if reply is None else reply.code.name
        if not request.watched:
            self._passage.finish(request)

    async def _send(self, request: Request, asked: Asked, parsed: ParsedRequest, *, decoupled: bool) -> None:
        asked_s = time.perf_counter()
        try:
            upstream = self._opened()
            await self.answers.expect(asked, request.model, request.decision, decoupled=decoupled)
            await upstream.send(parsed.canonical())
        finally:
            request.upstream_s = time.perf_counter() - asked_s

    def _checked(self, judged: Judged, request: Request) -> ParsedRequest | Reply:
        if isinstance(judged.outcome, ParsedRequest):
            try:
                self._policies.check(judged.asked)
            except MalformedRequest as error:
                return refuse(error, self._metrics, request.id)
        return judged.outcome

    def _opened(self) -> UpstreamStream:
        if self._upstream is None:
            caller = self._caller
            self._upstream = self._handler.upstream.open(
                STREAM_METHOD, caller.metadata, caller.remaining_s(), caller.name, self.answers.owed
            )
            self._start(self._relay(self._upstream))
        else:
            self._upstream.check()
        return self._upstream

    async def _relay(self, upstream: UpstreamStream) -> None:
        """Pass on what the upstream says, until it ends the stream."""
        while (response := await upstream.receive()) is not None:
            await self.answers.greet(upstream)
            await self.answers.relay(*await self._unpacked(response))
        code, details, trailing = await upstream.ending()
        await self.answers.over(self._ending(Reply(code, details, b"", await upstream.metadata(), trailing)))

    async def _unpacked(self, response: bytes) -> tuple[bytes, Reply | None]:
        """An answer of the upstream, inflated where it came compressed, and what to say where it is too large."""
        try:
            return await unpacked("the upstream's answer", response, self._max_message_bytes), None
        except GuardError as error:
            with identified() as call_id:
                return response, refuse(error, self._metrics, call_id)

    def _ending(self, reply: Reply) -> Reply:
        return stopping(self._id) if self._drained and reply.code is grpc.StatusCode.OK else reply

    def _start(self, steps: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(steps)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        """What fails here ends the stream."""
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and not self.answers.end.done():
            self.answers.end.set_exception(error)
