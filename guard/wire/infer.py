"""ModelInfer: parse, screen, act, answer."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import grpc

from guard.config import Settings
from guard.values import Action, Decision, Mode
from guard.wire import status
from guard.wire.answer import Context, client_of, deadline_s, identified, refuse, send
from guard.wire.message import ParsedRequest, parse, take_apart, with_verdict
from guard.wire.metadata import to_upstream
from guard.wire.ports import PROTOCOL, Screener, WireMetrics
from guard.wire.receive import receive
from guard.wire.status import Metadata
from guard.wire.upstream import Call, Reply, Upstream

METHOD = "/inference.GRPCInferenceService/ModelInfer"


class InferHandler:
    """Serves ModelInfer."""

    def __init__(self, screener: Screener, upstream: Upstream, settings: Settings, metrics: WireMetrics) -> None:
        self._screener = screener
        self._upstream = upstream
        self._settings = settings
        self._metrics = metrics

    async def answer(self, messages: AsyncIterator[bytes], context: Context) -> bytes:
        """Answer a call, whose one message is a serialised ModelInferRequest."""
        with identified() as call_id:
            request = _Request(call_id)
            with self._metrics.inflight():
                try:
                    message = await receive(messages, self._settings.upstream.max_message_bytes)
                    request.started_s = time.perf_counter()
                    reply = await self._answer(request, message, context)
                except Exception as error:  # noqa: BLE001 - the boundary: every error becomes a status
                    reply = refuse(error, self._metrics, call_id)
                    request.marks = request.marks or status.refusal_trailers(call_id)
                finally:
                    self._finish(request)
            return await send(context, reply, request.marks)

    async def _answer(self, request: _Request, message: bytes, context: Context) -> Reply:
        parts = take_apart(message)
        request.model = parts.header.model_name
        parsed = parse(parts)
        remaining_s = deadline_s(context)
        decision = await self._screener.screen(
            parsed.infer, decision_id=request.id, deadline_s=remaining_s, client=client_of(context)
        )
        request.decision, request.marks = decision, status.trailers(decision)
        if decision.action is not Action.REJECT:
            with request.at_upstream():
                return await self._forward(parsed, decision, context)
        rejection = status.of_rejection(
            decision,
            client_deadline_expired=self._client_bound(decision, remaining_s),
            unverified=self._screener.unverified(parsed.infer),
        )
        return Reply(rejection.code, rejection.message)

    def _client_bound(self, decision: Decision, remaining_s: float | None) -> bool:
        """Whether the client's deadline, not the policy's budget, bounded the screening."""
        policy = self._settings.models.get(decision.model)
        budget_s = policy.screening_budget_s if policy else float("inf")
        return remaining_s is not None and remaining_s <= budget_s

    async def _forward(self, parsed: ParsedRequest, decision: Decision, context: Context) -> Reply:
        call = Call(
            METHOD,
            parsed.canonical(),
            to_upstream(context.invocation_metadata() or ()),
            deadline_s(context),
            model=decision.model,
        )
        reply = await self._upstream.call(call)
        if decision.mode is Mode.SHADOW or reply.code is not grpc.StatusCode.OK:
            return reply
        return replace(reply, body=with_verdict(reply.body, decision))

    def _finish(self, request: _Request) -> None:
        duration_s = time.perf_counter() - request.started_s
        self._metrics.request_finished(
            decision=request.decision,
            model=request.model,
            protocol=PROTOCOL,
            duration_s=duration_s,
            overhead_s=duration_s - request.upstream_s,
        )


@dataclass(slots=True)
class _Request:
    """What is known of a request so far. `marks` are the trailers of its answer."""

    id: str
    started_s: float = field(default_factory=time.perf_counter)
    upstream_s: float = 0.0
    model: str = ""
    decision: Decision | None = None
    marks: Metadata = ()

    @contextmanager
    def at_upstream(self) -> Iterator[None]:
        """Measure the time that it spends at the upstream."""
        asked_s = time.perf_counter()
        try:
            yield
        finally:
            self.upstream_s = time.perf_counter() - asked_s
