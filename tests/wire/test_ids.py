"""The id of a call: in each line of the log about it, and at the end of what its client is told."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Iterator, MutableMapping
from typing import Any

import grpc
import pytest
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from guard.errors import BackendError, MethodDenied, ModelNotListed, NonFiniteInput
from guard.pb.grpc_service_pb2 import ModelInferRequest
from guard.wire.answer import send
from guard.wire.upstream import Reply
from tests.wire.parts import Answer, Serve

Events = list[MutableMapping[str, Any]]


@pytest.fixture
def events() -> Iterator[Events]:
    """What is logged, with what is bound to its context."""
    with capture_logs(processors=[merge_contextvars]) as captured:
        yield captured


def id_of(answer: Answer) -> str:
    """The id at the end of a refusal, which is in its trailers too."""
    found = re.search(r"\[guard_id=([0-9a-f]{32})\]$", answer.message or "")
    assert found, answer.message
    assert answer.trailing["guard-id"] == found[1]
    return found[1]


def in_shared_memory() -> bytes:
    """A request whose tensor is in shared memory."""
    request = ModelInferRequest(model_name="digits")
    tensor = request.inputs.add(name="image", datatype="UINT8", shape=[1])
    tensor.parameters["shared_memory_region"].string_param = "r"
    return request.SerializeToString()


@pytest.mark.parametrize(
    ("outcome", "event"),
    [
        (NonFiniteInput("NaN at item 1 of 2"), "request refused"),
        (ModelNotListed("no policy for 'x'"), "request refused"),
        (MethodDenied("no"), "request refused"),
        (BackendError("path /secret"), "request failed"),
        (ZeroDivisionError("path /secret"), "request failed"),
    ],
)
async def test_a_refused_request(serve: Serve, message: bytes, events: Events, outcome: Exception, event: str) -> None:
    """What the screener refuses is logged with the id that the screener got and the client is told."""
    guard = await serve(outcome)
    answer = await guard.call("ModelInfer", message)
    assert [id_of(answer)] == guard.screener.ids
    assert [(e["event"], e["decision_id"]) for e in events] == [(event, id_of(answer))]


@pytest.mark.parametrize("bad", [b"\x3a\xff", in_shared_memory()], ids=["malformed", "shared memory"])
async def test_what_is_never_screened(serve: Serve, events: Events, bad: bytes) -> None:
    """What is refused before anybody screens it has an id as well, and the log the reason that the client got."""
    answer = await (await serve()).call("ModelInfer", bad)
    (event,) = events
    assert event["decision_id"] == id_of(answer)
    assert answer.message == f"{event['reason']} [guard_id={id_of(answer)}]"


@pytest.mark.parametrize("method", ["RepositoryModelLoad", "Unheard", "/other.Service/Method"])
async def test_a_refused_method(serve: Serve, events: Events, method: str) -> None:
    """A method that is denied or unknown is logged, by its name, with the id that its client is told."""
    answer = await (await serve()).call(method)
    (event,) = events
    assert (event["event"], event["decision_id"]) == ("request refused", id_of(answer))
    assert method in event["reason"]


@pytest.mark.parametrize("method", ["ModelInfer", "ServerReady"])
async def test_an_upstream_that_is_down(
    serve: Serve, free_address: str, message: bytes, events: Events, method: str
) -> None:
    """So is a call that could not be sent on."""
    answer = await (await serve(address=free_address)).call(method, message)
    assert answer.code is grpc.StatusCode.UNAVAILABLE
    assert {e["decision_id"] for e in events} == {re.findall(r"guard_id=(\w+)\]$", answer.message or "")[0]}


async def test_unread_messages(serve: Serve, events: Events, caplog: pytest.LogCaptureFixture) -> None:
    """What gRPC refuses by itself is one line each, and gRPC logs no traceback beside it.

    All but a call that gRPC ends before its handler began, which happens on busy cores, and can't be seen here.
    """
    guard = await serve(max_message_bytes=100_000)
    await asyncio.gather(*(guard.call("ModelInfer", bytes(300_000)) for _ in range(40)))
    for _ in range(100):  # they end a little after their clients have heard
        await guard.call("ServerReady")
        if len(events) == 40:
            break
    assert 0 < len({event["decision_id"] for event in events}) == len(events) <= 40
    assert "the 100000 bytes that upstream.max_message_bytes allows" in events[0]["reason"]
    assert [record.getMessage() for record in caplog.records if record.levelno > logging.INFO] == []


class _Ended:
    """The context of a call that gRPC ended while its handler was at work."""

    async def abort(self, *_: object) -> None:
        """Fail as gRPC does then."""
        raise grpc.aio.InternalError("Failed execute_batch")


async def test_a_call_that_ended_before_its_answer() -> None:
    """An answer that comes too late, as it may for an unread message, counts as cancelled, which gRPC doesn't log."""
    with pytest.raises(asyncio.CancelledError):
        await send(_Ended(), Reply(grpc.StatusCode.INVALID_ARGUMENT, "no"))


async def test_each_call_has_its_own(serve: Serve, message: bytes) -> None:
    """No two calls share an id."""
    guard = await serve()
    for _ in range(5):
        await guard.call("ModelInfer", message)
    assert len(set(guard.screener.ids)) == 5


async def test_clients_are_told_apart_by_address(serve: Serve, message: bytes) -> None:
    """The screener hears whose call it is: the address, without the port, which each connection has anew."""
    first, second = await serve(), await serve()
    for each in (first, second):
        await each.call("ModelInfer", message)
        assert each.screener.clients == ["ipv4:127.0.0.1"]
