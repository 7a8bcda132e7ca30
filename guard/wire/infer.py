"""ModelInfer over gRPC."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial

import grpc

from guard.errors import GuardError
from guard.wire.answer import Context, client_of, deadline_s, send
from guard.wire.message import Parts, take_apart
from guard.wire.metadata import to_upstream
from guard.wire.passage import Passage
from guard.wire.ports import PROTOCOL
from guard.wire.receive import Packing, receive
from guard.wire.request import Caller
from guard.wire.screen_only import said
from guard.wire.shared_memory import Place, Regions
from guard.wire.status import of_error
from guard.wire.upstream import Reply


class InferHandler:
    """Serves ModelInfer. With `regions`, tensors may be in shared memory."""

    def __init__(self, passage: Passage, max_message_bytes: int, regions: Regions | None = None) -> None:
        self._passage = passage
        self._max_message_bytes = max_message_bytes
        self._regions = regions

    async def answer(self, _messages: AsyncIterator[bytes], context: Context) -> bytes:
        """Answer a call, whose one message is a serialised ModelInferRequest."""
        if self._regions is not None:
            return await self._answer_copied(self._regions, context)
        packing = Packing()
        answer = await self._passage.answer(caller_of(context), self._parts(context, packing))
        return await send(context, answer.reply, answer.marks, packing)

    async def _parts(self, context: Context, packing: Packing) -> Parts:
        return take_apart(await receive(context, self._max_message_bytes, packing))

    async def _answer_copied(self, regions: Regions, context: Context) -> bytes:
        """Answer a call whose tensors may be in shared memory: copied in before, and written back behind all else."""
        caller, outputs, packing = caller_of(context), dict[str, Place](), Packing()

        async def parts() -> Parts:
            made, places = regions.copied(await self._parts(context, packing), str(context.peer()))
            outputs.update(places)
            return made

        answer = await self._passage.answer(caller, parts())
        reply = answer.reply
        if outputs and reply.code is grpc.StatusCode.OK:
            try:
                reply = replace(reply, body=regions.returned(reply.body, outputs))
            except GuardError as error:
                refused = of_error(error, str(dict(answer.marks).get("guard-id", "")))
                reply = Reply(refused.code, refused.message)
        return await send(context, reply, answer.marks, packing)


def caller_of(context: Context) -> Caller:
    """Who makes a gRPC call."""
    metadata = tuple(context.invocation_metadata() or ())
    return Caller(
        client_of(context),
        PROTOCOL,
        partial(deadline_s, context),
        to_upstream(metadata),
        peer=str(context.peer()),
        screen_only=said(metadata),
    )
