"""An inference request on its way through Guard, whichever protocol it came by: screen, act, forward, mark."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import grpc

from guard.config import Settings
from guard.tracing import Trace
from guard.values import Action, Course, Decision, Mode, Verdict
from guard.wire import screen_only, status
from guard.wire.answer import identified, refuse
from guard.wire.message import ParsedRequest, Parts, in_sequence, parse, with_verdict
from guard.wire.ports import Auditor, Screener, Tracer, WireMetrics
from guard.wire.request import Caller, Request, sighting_of, span_of
from guard.wire.room import Room
from guard.wire.status import Metadata
from guard.wire.upstream import Call, Reply

METHOD = "/inference.GRPCInferenceService/ModelInfer"


@dataclass(frozen=True, slots=True)
class Answer:
    """How a call ends, Guard's own trailers for it, and what was decided, if it was by then.

    `model` is the policy's name for what it asked for, "" where none could be read.
    """

    reply: Reply
    marks: Metadata
    decision: Decision | None = None
    model: str = ""


class Server(Protocol):
    """Where requests go that may pass."""

    async def call(self, call: Call) -> Reply:
        """Send a call on, and return how it ends."""
        ...


class Passage:
    """The one way of inference requests to the upstream.

    Where the policy lets the upstream run beside the screening, added latency tends to what screening takes longer than
    inference; where it only watches, nothing waits for the verdict. `room` is shared with another passage, if it is
    given; `marks_answers` puts the verdict into what the upstream answers.
    """

    def __init__(
        self,
        screener: Screener,
        upstream: Server,
        settings: Settings,
        metrics: WireMetrics,
        auditors: Sequence[Auditor] = (),
        *,
        tracer: Tracer | None = None,
        room: Room | None = None,
        marks_answers: bool = True,
    ) -> None:
        self._screener = screener
        self._upstream = upstream
        self._metrics = metrics
        self._auditors = tuple(auditors)
        self._tracer = tracer
        self._screen_only = settings.screen_only
        self._marks_answers = marks_answers
        self.room = Room(settings.limits.max_inflight_bytes) if room is None else room
        self._behind: set[asyncio.Task[None]] = set()

    async def answer(self, caller: Caller, receive: Awaitable[Parts]) -> Answer:
        """Answer a call, whose one message `receive` waits for."""
        with identified() as call_id:
            request, reply = self.begin(call_id, caller), None
            with self._metrics.inflight():
                try:
                    parts = await receive
                    request.started_s = time.perf_counter()
                    request.model = parts.header.model_name
                    request.held = self.room.take(parts.size)
                    reply = await self._answer(request, parts)
                except Exception as error:  # noqa: BLE001 - the boundary: every error becomes a status
                    reply = refuse(error, self._metrics, call_id)
                    request.marks = request.marks or status.refusal_trailers(call_id)
                finally:
                    request.answered_s = time.perf_counter()
                    request.code = "" if reply is None else reply.code.name
                    if not request.watched:
                        self.finish(request)
            return Answer(reply, request.marks, request.decision, request.model)

    def begin(self, call_id: str, caller: Caller, within: Trace | None = None) -> Request:
        """A request that came. Where requests are traced, the upstream is told of Guard's trace, not of the caller's.

        `within` is the trace of the stream that it came on.
        """
        if self._tracer is None:
            return Request(call_id, caller)
        trace = self._tracer.begin(caller.metadata, within)
        return Request(call_id, replace(caller, metadata=trace.told_in(caller.metadata)), trace=trace)

    def course(self, request: Request, parts: Parts) -> Course:
        """What the policy says of a request, which keeps to the policy that it began with, and to one version."""
        request.screener = screener = self._screener.now()
        asked_for = parts.header.model_name, parts.header.model_version
        course = screener.course(*asked_for)
        request.model = screener.listed_as(*asked_for)
        parts.header.model_version = screener.version(*asked_for)
        return course

    async def screened(self, request: Request, parsed: ParsedRequest) -> Decision:
        """Judge a request within what its caller's deadline leaves."""
        request.screener = request.screener or self._screener.now()
        decision = await request.screener.screen(
            parsed.infer,
            decision_id=request.id,
            deadline_s=None if request.watched else request.caller.remaining_s(),
            client=request.caller.name,
        )
        request.screened_s = time.perf_counter()
        request.decision, request.marks = decision, status.trailers(decision)
        request.infer = parsed.infer
        return decision

    def rejection(self, request: Request, parsed: ParsedRequest, decision: Decision) -> Reply:
        """What a caller hears whose request the policy rejects."""
        unverified = (request.screener or self._screener).unverified(parsed.infer)
        rejection = status.of_rejection(decision, unverified=unverified)
        return Reply(rejection.code, rejection.message)

    async def close(self, grace_s: float) -> None:
        """Give what is only watched `grace_s` seconds to be judged."""
        if self._behind:
            await asyncio.wait(self._behind, timeout=grace_s)
        for task in self._behind:
            task.cancel()

    async def _answer(self, request: Request, parts: Parts) -> Reply:
        course = self.course(request, parts)
        if (header := request.caller.screen_only) is not None:
            screen_only.check(header, self._screen_only, course)
            return await self._tell(request, parse(parts))
        parsed = parse(parts)
        if course is Course.BESIDE and in_sequence(parsed.header):
            course = Course.BEFORE  # what is rejected, or refused, may leave no mark on a sequence's state
        match course:
            case Course.BEHIND:
                self.watch(request, parsed)
                return await self._forward(request, parsed)
            case Course.BESIDE:
                return await self._beside(request, parsed)
            case Course.BEFORE:
                decision = await self.screened(request, parsed)
                if decision.action is Action.REJECT:
                    return self.rejection(request, parsed, decision)
                return self._marked(await self._forward(request, parsed), decision)

    async def _tell(self, request: Request, parsed: ParsedRequest) -> Reply:
        """Tell the verdict on a request that is not forwarded. What could not be screened may be worth a retry."""
        decision = await self.screened(request, parsed)
        if decision.verdict is Verdict.UNSCREENED and decision.action is Action.REJECT:
            return self.rejection(request, parsed, decision)
        return Reply(grpc.StatusCode.OK, body=screen_only.answer(parsed.infer, decision))

    async def _beside(self, request: Request, parsed: ParsedRequest) -> Reply:
        """Ask the upstream at once, and hold its answer back until the verdict."""
        screening = asyncio.create_task(self.screened(request, parsed))
        await asyncio.sleep(0)  # what is refused at once is not forwarded
        forwarding = None if screening.done() else asyncio.create_task(self._forward(request, parsed))
        try:
            decision = await screening
            if decision.action is Action.REJECT:
                return self.rejection(request, parsed, decision)
            return self._marked(await (forwarding or self._forward(request, parsed)), decision)
        finally:
            for task in (screening, forwarding):
                if task is not None:
                    _drop(task)

    def watch(self, request: Request, parsed: ParsedRequest) -> None:
        """Judge a request whose caller does not wait for it. It holds its room until then."""
        request.watched = True

        async def judge() -> None:
            try:
                await asyncio.sleep(0)  # the caller's request goes first
                await self.screened(request, parsed)
            except Exception as error:  # noqa: BLE001 - as in `answer`, and nobody is told
                refuse(error, self._metrics, request.id)
            finally:
                self.finish(request)

        task = asyncio.create_task(judge())
        self._behind.add(task)
        task.add_done_callback(self._behind.discard)

    async def _forward(self, request: Request, parsed: ParsedRequest) -> Reply:
        caller, asked_s = request.caller, time.perf_counter()
        try:
            return await self._upstream.call(
                Call(
                    METHOD,
                    parsed.canonical(),
                    caller.metadata,
                    caller.remaining_s(),
                    model=request.model,
                    client=caller.name,
                )
            )
        finally:
            request.upstream_s = time.perf_counter() - asked_s

    def _marked(self, reply: Reply, decision: Decision) -> Reply:
        if not self._marks_answers or reply.code is not grpc.StatusCode.OK:
            return reply
        return Reply(
            reply.code,
            body=marked(reply.body, decision),
            initial_metadata=reply.initial_metadata,
            trailing_metadata=reply.trailing_metadata,
        )

    def finish(self, request: Request) -> None:
        """Count a request, give back its room, and show it to who keeps what is worth it, once for each."""
        if request.held is not None:
            request.held.release()
        duration_s = (request.answered_s or time.perf_counter()) - request.started_s
        self._metrics.request_finished(
            decision=request.decision,
            model=request.model,
            protocol=request.caller.protocol,
            duration_s=duration_s,
            overhead_s=max(0.0, duration_s - request.upstream_s),
            screen_only=request.caller.screen_only is not None,
        )
        self.trace(request)
        decision, infer, request.infer = request.decision, request.infer, None  # it holds the message
        if decision is None or infer is None:
            return
        for auditor in self._auditors:
            if one_of := auditor.one_of(decision):
                auditor.record(sighting_of(request, decision, infer, duration_s, one_of))

    def trace(self, request: Request, method: str = METHOD) -> None:
        """Have a request traced that has ended, if it is to be."""
        if self._tracer is not None and request.trace is not None and request.trace.sampled:
            self._tracer.finished(span_of(request, request.trace, method))


def marked(response: bytes, decision: Decision) -> bytes:
    """A serialised response that tells the verdict, where its caller may know of it."""
    return response if decision.mode is Mode.SHADOW else with_verdict(response, decision)


def _drop(task: asyncio.Task[object]) -> None:
    """Let go of a task: what it ends with, nobody asks."""
    if not task.cancel() and not task.cancelled():
        task.exception()
