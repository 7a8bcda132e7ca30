"""External processing: Envoy holds a request, asks whether it may pass, and is told to send it on or what to answer.

Source: envoy.service.ext_proc.v3, "External processing service". One stream is about one request. Envoy first tells its
headers, then its whole body, which takes `request_body_mode: BUFFERED`: of a part Guard could say nothing.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from functools import partial

import grpc

from guard.errors import ConfigError, GuardError, MalformedRequest, Unsupported, WrongMethod
from guard.pb import ext_proc_pb2 as pb
from guard.values import Decision
from guard.wire.answer import Context, client_of, identified, refuse
from guard.wire.envoy import messages
from guard.wire.envoy.deadline import deadline_of
from guard.wire.envoy.frame import framed, plain, unframed
from guard.wire.envoy.messages import Head
from guard.wire.message import Parts, take_apart
from guard.wire.metadata import check_metadata, to_upstream
from guard.wire.methods import DENIED, PASSED, SERVICE, STREAM, denied
from guard.wire.passage import METHOD, Passage, marked
from guard.wire.ports import WireMetrics
from guard.wire.request import Caller
from guard.wire.screen_only import HEADER, said
from guard.wire.status import Metadata, refusal_trailers

PROCESS = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"
PROTOCOL = "ext_proc"
"""The value of the `protocol` label for requests that Envoy asks about."""


class Processor:
    """Answers Envoy. `secret` is what the guarded server wants to hear."""

    def __init__(
        self, passage: Passage, metrics: WireMetrics, max_message_bytes: int, secret: Callable[[], Metadata]
    ) -> None:
        self._passage = passage
        self._metrics = metrics
        self._max_message_bytes = max_message_bytes
        self._secret = secret

    async def process(self, questions: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        """Answer all that Envoy asks about one request."""
        exchange = _Exchange(self._passage, self._metrics, self._max_message_bytes, self._secret, context)
        async for message in questions:
            try:
                answer = await exchange.answer(messages.read(message))
            except Exception as error:  # noqa: BLE001 - the boundary: every error becomes a status
                with identified() as call_id:
                    reply = refuse(error, self._metrics, call_id)
                answer = messages.end(reply, refusal_trailers(call_id), as_grpc=exchange.speaks_grpc)
            yield answer.SerializeToString()


class _Exchange:
    """What was said of one request so far. `caller` is there once its body has to be screened."""

    def __init__(
        self,
        passage: Passage,
        metrics: WireMetrics,
        max_message_bytes: int,
        secret: Callable[[], Metadata],
        context: Context,
    ) -> None:
        self._passage = passage
        self._metrics = metrics
        self._max_message_bytes = max_message_bytes
        self._secret = secret
        self._envoy, self._peer = client_of(context), str(context.peer())
        self._caller: Caller | None = None
        self._decision: Decision | None = None
        self._passes = False
        self.speaks_grpc = True

    async def answer(self, question: messages.Question) -> pb.ProcessingResponse:
        """Answer one question.

        Raises:
            GuardError: the request may not pass.
        """
        asked = question.asked
        kind = asked.WhichOneof("request")
        if kind == "request_headers":
            return self._head(Head.of(asked.request_headers), asked)
        if question.body is not None:
            return await self._body(question.body)
        if kind == "response_body" and self._decision is not None:
            return _told(asked.response_body.body, self._decision)
        if kind is None:
            raise MalformedRequest("Envoy asks what guard does not know")
        return messages.untouched(kind)

    def _head(self, head: Head, asked: pb.ProcessingRequest) -> pb.ProcessingResponse:
        self.speaks_grpc = head.speaks_grpc
        path, metadata = head.get(":path"), to_upstream(head.pairs)
        _check(head, path)
        check_metadata(metadata)
        mutation = messages.header_mutation(head, self._secret())
        self._passes = path != METHOD
        if self._passes:
            return messages.go_on(mutation, without_body=True)
        _check_mode(asked)
        _check_wants_inference(head)
        if head.ends:
            raise MalformedRequest("the call has no message")
        remaining_s = partial(_until, deadline_of(head.get("grpc-timeout")))
        self._caller = Caller(head.client(self._envoy), PROTOCOL, remaining_s, metadata, self._peer)
        return messages.go_on(mutation, without_body=False)

    async def _body(self, body: memoryview) -> pb.ProcessingResponse:
        if self._passes:
            return messages.send_on(None, ())
        caller, self._caller = self._caller, None
        if caller is None:
            raise MalformedRequest("Envoy sent a body without headers before it, or a second one")
        came = b""

        async def parts() -> Parts:
            nonlocal came
            came = await unframed(body, self._max_message_bytes)
            return take_apart(came)

        answer = await self._passage.answer(caller, parts())
        if answer.reply.code is not grpc.StatusCode.OK:
            return messages.end(answer.reply, answer.marks, as_grpc=self.speaks_grpc)
        self._metrics.upstream_carried(answer.model)
        self._decision = answer.decision
        goes = answer.reply.body
        as_it_came = goes == came and not body[0]
        return messages.send_on(None if as_it_came else framed(goes), answer.marks)


def _told(answer: bytes, decision: Decision) -> pb.ProcessingResponse:
    """Put the verdict into the server's answer. Envoy asks this only where its configuration says so."""
    message = plain(answer)
    return messages.answer_on(None if message is None else framed(marked(message, decision)))


def _check(head: Head, path: str) -> None:
    """Check that a request may pass as far as its headers tell."""
    if not head.speaks_grpc:
        raise Unsupported(
            "guard screens gRPC calls only where Envoy carries them: use gRPC, or guard's own HTTP endpoint"
        )
    if head.get(":method") != "POST":
        raise WrongMethod("gRPC calls are made by POST")
    name = path.removeprefix(f"/{SERVICE}/")
    if path == METHOD or name in PASSED:
        return
    raise _refusal(name, path)


def _check_wants_inference(head: Head) -> None:
    """Check that the server is meant to run: Envoy would take the verdict for the request."""
    if said(head.pairs) is not None:
        raise Unsupported(f"guard answers the header {HEADER} at its own endpoints only; ask there, or leave it out")


def _refusal(name: str, path: str) -> GuardError:
    if name == STREAM:
        return Unsupported(
            f"guard does not screen {STREAM} where Envoy carries it, so it lets none through: "
            "use ModelInfer, or guard's own gRPC endpoint"
        )
    if name in DENIED:
        return denied(name)
    return Unsupported(f"guard does not know {path}, so it does not let it through")


def _check_mode(asked: pb.ProcessingRequest) -> None:
    """Check that Envoy will show the whole body, and heed the answer. Else the request would pass unscreened.

    One in observability mode heeds this refusal as little as any other answer: then it is in the log, and nowhere else.
    """
    if asked.observability_mode or asked.protocol_config.request_body_mode != pb.ProcessingMode.BUFFERED:
        raise ConfigError(
            "Envoy's ext_proc filter does not hold requests until guard has seen their bodies: give it "
            "`processing_mode: {request_body_mode: BUFFERED}` and leave observability_mode out, as "
            "deploy/envoy/enforce.yaml does"
        )


def _until(ends_s: float | None) -> float | None:
    return None if ends_s is None else ends_s - time.monotonic()
