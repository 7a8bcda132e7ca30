"""Calls without tensors: health, metadata, configuration, statistics and the index of the repository.

They are forwarded by gRPC, and answered with the JSON that Triton's HTTP server gives.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from types import MappingProxyType
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from guard.errors import MalformedRequest
from guard.pb import grpc_service_pb2 as v2
from guard.wire.rest.document import load
from guard.wire.rest.pieces import Pieces, joined
from guard.wire.rest.reply import JSON, HttpReply, to_json
from guard.wire.rest.routes import Kind, Route


@dataclass(frozen=True, slots=True)
class _Call:
    """A call of the protocol: by gRPC, and how its answer is written."""

    method: str
    request: type[Message]
    response: type[Message]
    write: Callable[[Any], HttpReply]
    of_model: bool = False


def question(route: Route, body: Pieces) -> tuple[str, bytes]:
    """The gRPC method that a request means, and its message.

    Raises:
        MalformedRequest: the body of a request for the index is not what that takes.
    """
    call = _CALLS[route.kind]
    if call.of_model:
        fields: dict[str, Any] = {"name": route.name, "version": route.version}
    else:
        fields = {"repository_name": route.name, "ready": _ready(joined(body))} if route.kind is Kind.INDEX else {}
    return call.method, call.request(**fields).SerializeToString()


def answer(kind: Kind, message: bytes) -> HttpReply:
    """The reply to a request of this kind, to which the upstream answered with a serialised message.

    Raises:
        google.protobuf.message.DecodeError: the upstream's answer is not that message.
    """
    call = _CALLS[kind]
    return call.write(call.response.FromString(message))


def _ready(body: bytes | bytearray) -> bool:
    ready = load(body).get("ready", False) if body else False
    if not isinstance(ready, bool):
        raise MalformedRequest("ready must be true or false")
    return ready


def _health(response: v2.ServerLiveResponse | v2.ServerReadyResponse | v2.ModelReadyResponse) -> HttpReply:
    well = response.live if isinstance(response, v2.ServerLiveResponse) else response.ready
    return HttpReply(HTTPStatus.OK if well else HTTPStatus.BAD_REQUEST)


def _message(response: Message) -> HttpReply:
    return _json(_plain(response))


def _index(response: v2.RepositoryIndexResponse) -> HttpReply:
    return _json([{name: value for name, value in _plain(model).items() if value} for model in response.models])


def _json(value: object) -> HttpReply:
    return HttpReply(headers=(JSON,), body=(to_json(value),))


def _plain(message: Message) -> dict[str, Any]:
    """A message as Triton writes it: names as in the proto, integers as numbers, and no default left out.

    protobuf's own JSON has 64-bit integers as strings.
    """
    return {field.name: _field(message, field) for field in message.DESCRIPTOR.fields if _is_shown(message, field)}


def _is_shown(message: Message, field: FieldDescriptor) -> bool:
    return not field.has_presence or message.HasField(field.name)


def _field(message: Message, field: FieldDescriptor) -> Any:
    value = getattr(message, field.name)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        write = _writer(field.message_type.fields_by_name["value"])
        return {key: write(one) for key, one in value.items()}
    write = _writer(field)
    return write(value) if isinstance(value, (Message, str, bytes, int, float)) else [write(one) for one in value]


def _writer(field: FieldDescriptor) -> Callable[[Any], Any]:
    """What turns one value of a field into JSON."""
    if field.message_type is not None:
        return _plain
    if field.enum_type is not None:
        names = field.enum_type.values_by_number
        return lambda number: names[number].name if number in names else number
    if field.type == FieldDescriptor.TYPE_BYTES:
        return lambda value: base64.b64encode(value).decode()
    return lambda value: value


_CALLS: Mapping[Kind, _Call] = MappingProxyType(
    {
        Kind.SERVER_LIVE: _Call("ServerLive", v2.ServerLiveRequest, v2.ServerLiveResponse, _health),
        Kind.SERVER_READY: _Call("ServerReady", v2.ServerReadyRequest, v2.ServerReadyResponse, _health),
        Kind.SERVER_METADATA: _Call("ServerMetadata", v2.ServerMetadataRequest, v2.ServerMetadataResponse, _message),
        Kind.MODEL_READY: _Call("ModelReady", v2.ModelReadyRequest, v2.ModelReadyResponse, _health, of_model=True),
        Kind.MODEL_METADATA: _Call(
            "ModelMetadata", v2.ModelMetadataRequest, v2.ModelMetadataResponse, _message, of_model=True
        ),
        Kind.MODEL_CONFIG: _Call(
            "ModelConfig", v2.ModelConfigRequest, v2.ModelConfigResponse, lambda r: _message(r.config), of_model=True
        ),
        Kind.STATISTICS: _Call(
            "ModelStatistics", v2.ModelStatisticsRequest, v2.ModelStatisticsResponse, _message, of_model=True
        ),
        Kind.INDEX: _Call("RepositoryIndex", v2.RepositoryIndexRequest, v2.RepositoryIndexResponse, _index),
    }
)
