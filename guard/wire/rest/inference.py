"""ModelInfer over HTTP."""

from __future__ import annotations

from dataclasses import replace

import grpc

from guard.errors import MalformedRequest
from guard.pb.grpc_service_pb2 import ModelMetadataRequest, ModelMetadataResponse
from guard.wire.answer import identified, refuse
from guard.wire.message import Parts
from guard.wire.passage import Passage
from guard.wire.ports import WireMetrics
from guard.wire.request import Caller
from guard.wire.rest.coding import compressed, decoded
from guard.wire.rest.intake import Incoming
from guard.wire.rest.reply import HttpReply
from guard.wire.rest.request import Forms, read, read_bare
from guard.wire.rest.response import HEADER_LENGTH, write
from guard.wire.rest.routes import Route
from guard.wire.rest.statuses import failure, marked
from guard.wire.room import Room
from guard.wire.screen_only import said
from guard.wire.status import Metadata
from guard.wire.upstream import Call, Upstream

PROTOCOL = "http"
"""The value of the `protocol` label for requests that arrive here."""

_METADATA = "/inference.GRPCInferenceService/ModelMetadata"


class Inference:
    """Serves ModelInfer over HTTP. `room` is for bodies that are on their way."""

    def __init__(
        self, passage: Passage, upstream: Upstream, room: Room, metrics: WireMetrics, max_message_bytes: int
    ) -> None:
        self._passage = passage
        self._upstream = upstream
        self._room = room
        self._metrics = metrics
        self._max_message_bytes = max_message_bytes

    async def answer(self, incoming: Incoming, route: Route, metadata: Metadata, client: str, peer: str) -> HttpReply:
        """Send a request through the passage, and write the answer in the forms that it asks for."""
        forms = Forms()

        async def parts() -> Parts:
            nonlocal forms
            made, forms = await self._read(incoming, route, metadata, client)
            return made

        # HTTP has no deadline. The parameter `timeout` is the server's own business, as it is over gRPC.
        caller = Caller(client, PROTOCOL, lambda: None, metadata, peer, said(incoming.headers))
        answer = await self._passage.answer(caller, parts())
        if answer.reply.code is not grpc.StatusCode.OK:
            return failure(answer.reply, answer.marks)
        try:
            written = await compressed(write(answer.reply.body, forms), incoming.listed("accept-encoding"))
        except Exception as error:  # noqa: BLE001 - the boundary: every error becomes a status
            with identified() as call_id:
                return failure(refuse(error, self._metrics, call_id), answer.marks)
        return replace(written, headers=(*written.headers, *marked(answer.marks)))

    async def _read(self, incoming: Incoming, route: Route, metadata: Metadata, client: str) -> tuple[Parts, Forms]:
        arrived = await incoming.body(self._room, self._max_message_bytes)
        body = await decoded(arrived, incoming.header("content-encoding") or "", self._max_message_bytes)
        size = sum(map(len, body))
        json_bytes = _json_bytes(incoming.header(HEADER_LENGTH.decode()), size)
        if json_bytes == 0:
            return read_bare(body, route.name, route.version, await self._model_metadata(route, metadata, client))
        return read(body, size if json_bytes is None else json_bytes, route.name, route.version)

    async def _model_metadata(self, route: Route, metadata: Metadata, client: str) -> ModelMetadataResponse:
        message = ModelMetadataRequest(name=route.name, version=route.version).SerializeToString()
        reply = await self._upstream.call(Call(_METADATA, message, metadata, deadline_s=None, client=client))
        if reply.code is not grpc.StatusCode.OK:
            raise MalformedRequest(
                f"the upstream does not say what model {route.name!r} takes ({reply.details}); send JSON"
            )
        return ModelMetadataResponse.FromString(reply.body)


def _json_bytes(length: str | None, size: int) -> int | None:
    """How many bytes of the body are JSON: 0 for a bare tensor, None where nothing says so."""
    if length is None:
        return None
    if not (length.isascii() and length.isdecimal() and len(length) <= len(str(size)) and int(length) <= size):
        raise MalformedRequest(
            f"the header Inference-Header-Content-Length must be a number from 0 to {size}, the length of the body"
        )
    return int(length)
