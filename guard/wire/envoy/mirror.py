"""Copies of requests that Envoy has sent to the guarded server itself, and whose answer here it throws away.

Guard screens them behind, and forwards nothing: the server would compute each request twice. It watches, whatever it
finds, so a policy that means to refuse does not belong here, and its models are refused.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from guard.errors import MethodDenied
from guard.values import Course
from guard.wire.answer import Context, client_of, send
from guard.wire.envoy.messages import Head
from guard.wire.message import Parts, take_apart
from guard.wire.passage import Passage
from guard.wire.ports import Screener, WireMetrics
from guard.wire.receive import Packing, receive
from guard.wire.request import Caller
from guard.wire.upstream import Reply

PROTOCOL = "mirror"
"""The value of the `protocol` label for copies."""


class MirrorHandler:
    """Takes copies of ModelInfer calls."""

    def __init__(self, passage: Passage, screener: Screener, metrics: WireMetrics, max_message_bytes: int) -> None:
        self._passage = passage
        self._screener = screener
        self._metrics = metrics
        self._max_message_bytes = max_message_bytes

    async def answer(self, _messages: AsyncIterator[bytes], context: Context) -> bytes:
        """Take a copy, and answer with an empty response before it is screened."""
        metadata = tuple((str(key), str(value)) for key, value in context.invocation_metadata() or ())
        client = Head(metadata, ends=False).client(client_of(context))
        # The client waits for another answer than this one, so its deadline does not count.
        answer = await self._passage.answer(
            Caller(client, PROTOCOL, lambda: None, peer=str(context.peer())), self._parts(context)
        )
        return await send(context, Reply(answer.reply.code, answer.reply.details), answer.marks)

    async def _parts(self, context: Context) -> Parts:
        parts = take_apart(await receive(context, self._max_message_bytes, Packing()))
        name, version = parts.header.model_name, parts.header.model_version
        # The server gets the original, whatever becomes of its copy.
        self._metrics.upstream_carried(self._screener.listed_as(name, version))
        if self._screener.course(name, version) is not Course.BEHIND:
            raise MethodDenied(
                f"what Envoy mirrors is only watched, which is not what the policy says of model {name!r}: write "
                "`mode: shadow`, or have Envoy ask by external processing"
            )
        return parts
