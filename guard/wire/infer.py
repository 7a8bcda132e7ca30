"""ModelInfer: parse, screen, act, answer."""

from __future__ import annotations

import time
from dataclasses import replace

import grpc

from guard.config import Settings
from guard.values import Action, Decision, Mode
from guard.wire import status
from guard.wire.answer import Context, deadline_s, refuse, send
from guard.wire.message import ParsedRequest, parse, with_verdict
from guard.wire.metadata import to_upstream
from guard.wire.ports import PROTOCOL, Screener, WireMetrics
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

    async def answer(self, message: bytes, context: Context) -> bytes:
        """Answer one serialised ModelInferRequest."""
        started_s, upstream_s = time.perf_counter(), 0.0
        decision: Decision | None = None
        marks: Metadata = ()
        with self._metrics.inflight():
            try:
                parsed = parse(message)
                decision, client_bound = await self._screen(parsed, context)
                marks = status.trailers(decision)
                if decision.action is Action.REJECT:
                    rejection = status.of_rejection(decision, client_deadline_expired=client_bound)
                    reply = Reply(rejection.code, rejection.message)
                else:
                    asked_s = time.perf_counter()
                    try:
                        reply = await self._forward(parsed, decision, context)
                    finally:
                        upstream_s = time.perf_counter() - asked_s
            except Exception as error:  # noqa: BLE001 - the boundary: every error becomes a status
                reply = refuse(error, self._metrics)
            finally:
                duration_s = time.perf_counter() - started_s
                self._metrics.request_finished(
                    decision=decision,
                    model=decision.model if decision else "",
                    protocol=PROTOCOL,
                    duration_s=duration_s,
                    overhead_s=duration_s - upstream_s,
                )
        return await send(context, reply, marks)

    async def _screen(self, parsed: ParsedRequest, context: Context) -> tuple[Decision, bool]:
        """The decision, and whether the client's deadline, not the policy's budget, bounded the screening."""
        remaining_s = deadline_s(context)
        decision = await self._screener.screen(parsed.infer, deadline_s=remaining_s)
        policy = self._settings.models.get(decision.model)
        budget_s = policy.screening_budget_s if policy else float("inf")
        return decision, remaining_s is not None and remaining_s <= budget_s

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
