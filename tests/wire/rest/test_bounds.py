"""Clients that send too much, too slowly, or leave."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

import h11
import pytest

from guard.config import Cancellation
from guard.pb.grpc_service_pb2 import ModelInferResponse
from guard.wire import metadata
from guard.wire.receive import transport_limit
from guard.wire.rest import app, intake, server
from tests.support.waiting import until
from tests.wire.rest.client import TIMEOUT_S, connected
from tests.wire.rest.conftest import INFER, MethodicalUpstream, StartRest

LIMIT = 100_000


@pytest.mark.parametrize("size", [LIMIT + 1, 2 * LIMIT])
@pytest.mark.parametrize("announced", [True, False])
async def test_a_body_over_the_limit(
    rest: StartRest, upstream: MethodicalUpstream, size: int, *, announced: bool
) -> None:
    """A body over max_message_bytes is 413, naming the setting; the connection stays of use."""
    guard = await rest(max_message_bytes=LIMIT)
    async with connected(guard.port) as connection:
        connection.begin("POST", INFER, size if announced else None)
        connection.send(h11.Data(data=bytes(size)))
        connection.send(h11.EndOfMessage())
        answer = await connection.answer()
        assert answer.status == 413
        assert "more than upstream.max_message_bytes allows (100000): send smaller batches" in answer.error
        assert not announced or f"the request has {size} bytes" in answer.error
        assert (await connection.ask("GET", "/v2/health/live")).status == 400
    assert guard.metrics.refused == ["message_too_large"]
    assert upstream.inferred() == []


async def test_a_body_far_over_the_limit(rest: StartRest) -> None:
    """What is announced far over the limit isn't waited for: the answer comes at once, and the connection ends."""
    guard = await rest(max_message_bytes=LIMIT)
    async with connected(guard.port) as connection:
        connection.begin("POST", INFER, transport_limit(LIMIT) + 1)
        answer = await connection.answer()
        assert (answer.status, answer.headers["connection"]) == (413, "close")
        assert await connection.closed()


async def test_a_body_without_end(rest: StartRest) -> None:
    """A body in chunks that never ends is read up to a bound."""
    guard = await rest(max_message_bytes=LIMIT)
    async with connected(guard.port) as connection:
        connection.begin("POST", INFER, None)
        for _ in range(2):
            connection.send(h11.Data(data=bytes(LIMIT)))
            await asyncio.sleep(0.1)
        connection.send(h11.Data(data=bytes(1)))
        answer = await connection.answer()
        assert (answer.status, answer.headers["connection"]) == (413, "close")


async def test_all_bodies_together(rest: StartRest) -> None:
    """Bodies on their way are counted together; where they leave no room for more, that is 429."""
    guard = await rest(max_message_bytes=4 << 20)  # room for 8 MiB
    async with connected(guard.port) as first, connected(guard.port) as second, connected(guard.port) as third:
        for connection in (first, second, third):
            connection.begin("POST", INFER, 4 << 20)
            connection.send(h11.Data(data=bytes((4 << 20) - 10)))
        await until(lambda: guard.metrics.refused)
        assert guard.metrics.refused == ["overloaded"]
        for connection in (first, second, third):
            connection.send(h11.Data(data=bytes(10)))
            connection.send(h11.EndOfMessage())
        assert sorted([(await one.answer()).status for one in (first, second, third)]) == [400, 400, 429]


async def test_a_slow_body(rest: StartRest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body that doesn't come in time is 408, and the connection ends."""
    monkeypatch.setattr(intake, "GRACE_S", 0.1)
    guard = await rest()
    async with connected(guard.port) as connection:
        connection.begin("POST", INFER, 100)
        connection.send(h11.Data(data=bytes(50)))
        answer = await connection.answer()
        assert (answer.status, answer.headers["connection"]) == (408, "close")
        assert "came too slowly: 50 bytes" in answer.error
        assert await connection.closed()
    assert guard.metrics.refused == ["request_too_slow"]


@pytest.mark.parametrize("said", [b"", b"POST / HTTP/1.1\r\n"])
async def test_a_slow_head(rest: StartRest, monkeypatch: pytest.MonkeyPatch, said: bytes) -> None:
    """A connection on which no request begins in time is cut, however often a byte comes."""
    monkeypatch.setattr(server, "HEAD_TIMEOUT_S", 0.2)
    guard = await rest()
    async with connected(guard.port) as connection:
        connection.writer.write(said)
        cut = asyncio.create_task(connection.closed())
        for _ in range(100):
            if cut.done():
                break
            connection.writer.write(b"x" if said else b"")
            await asyncio.sleep(0.02)
        assert await cut


async def test_a_slow_head_on_a_connection_in_use(rest: StartRest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only heads are timed: after an answer a client may take its time, until it begins."""
    monkeypatch.setattr(server, "HEAD_TIMEOUT_S", 0.2)
    guard = await rest()
    async with connected(guard.port) as connection:
        assert (await connection.ask("GET", "/v2/health/live")).status == 400
        await asyncio.sleep(0.3)
        assert (await connection.ask("GET", "/v2/health/live")).status == 400
        connection.writer.write(b"G")
        assert await connection.closed()


async def test_a_large_head(rest: StartRest, upstream: MethodicalUpstream) -> None:
    """Headers have a bound, and what goes on to the upstream a narrower one: it would drop others' calls with it."""
    guard = await rest()
    async with connected(guard.port) as connection:
        answer = await connection.ask("GET", "/v2", X="x" * metadata.MAX_BYTES)
        assert (answer.status, upstream.received) == (400, [])
        assert "has 7201 bytes of metadata or headers" in answer.error
        assert (await connection.ask("GET", "/v2", X="x" * (metadata.MAX_BYTES - 33))).status == 200
    async with connected(guard.port) as connection:
        connection.begin("GET", "/v2", X="x" * 30 * server.MAX_HEAD_BYTES)
        with contextlib.suppress(ConnectionError):  # it is still sending
            answer = await connection.answer()
            assert (answer.status, "16384 bytes at most" in answer.error) == (400, True)
        assert await connection.closed()
    await until(lambda: guard.metrics.refused == ["malformed_request"] * 2)
    assert len(upstream.received) == 1


@pytest.mark.parametrize(
    "said",
    [
        b"POST /v2/models/m/infer HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\n12345",
        b"POST /v2/models/m/infer HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nno length\r\n",
        b"what is this\r\n\r\n",
    ],
    ids=["two lengths", "no chunk", "no request line"],
)
async def test_no_request(rest: StartRest, upstream: MethodicalUpstream, said: bytes) -> None:
    """Where it is not clear what is asked, nothing is read: that is said as all else is, and counted."""
    guard = await rest()
    async with connected(guard.port) as connection:
        connection.writer.write(said)
        answer = await connection.answer()
        assert (answer.status, answer.headers["connection"]) == (400, "close")
        assert answer.headers["content-type"] == "application/json"
        assert "this is no request of HTTP/1.1 that guard can read" in answer.error
        assert await connection.closed()
    assert guard.metrics.refused == ["malformed_request"]
    assert upstream.received == []


async def test_no_request_whose_answer_has_no_body(rest: StartRest) -> None:
    """Where it can't be told in the protocol's form, the connection ends; it is counted all the same."""
    guard = await rest()
    async with connected(guard.port) as connection:
        connection.writer.write(b"HEAD /v2 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nno length\r\n")
        assert await connection.closed()
    assert "malformed_request" in guard.metrics.refused


async def test_too_many_connections(rest: StartRest, monkeypatch: pytest.MonkeyPatch) -> None:
    """One more than there may be is told so, in the protocol's form, and ends; it is counted."""
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 1)
    guard = await rest()
    async with connected(guard.port) as first:
        assert (await first.ask("GET", "/v2")).status == 200
        async with connected(guard.port) as second:
            answer = await second.ask("GET", "/v2")
            assert (answer.status, answer.headers["connection"]) == (429, "close")
            assert "too many connections" in answer.error
            assert await second.closed()
        assert guard.metrics.refused == ["overloaded"]
        await until(lambda: len(guard.server._running[0].server_state.connections) == 1)
        assert (await first.ask("GET", "/v2")).status == 200


@pytest.mark.parametrize("held", ["screening", "upstream"])
async def test_a_client_that_leaves(
    rest: StartRest, upstream: MethodicalUpstream, tensor: dict[str, Any], held: str
) -> None:
    """A client that leaves takes its request with it: out of the queue, and from the upstream where policy says so."""
    guard = await rest(cancellation=Cancellation.ALWAYS)
    (guard.screener if held == "screening" else upstream).release.clear()
    text = json.dumps(tensor).encode()
    async with connected(guard.port) as connection:
        connection.begin("POST", INFER, len(text))
        connection.send(h11.Data(data=text))
        await (guard.screener.entered if held == "screening" else upstream.started).wait()
    async with asyncio.timeout(TIMEOUT_S):
        await (guard.screener if held == "screening" else upstream).cancelled.wait()
        await guard.metrics.request_ended.wait()


async def test_a_client_that_leaves_early(rest: StartRest) -> None:
    """A client that leaves in the middle of its body is no error."""
    guard = await rest()
    async with connected(guard.port) as connection:
        connection.begin("POST", INFER, 100)
        connection.send(h11.Data(data=bytes(50)))
        await until(lambda: guard.metrics.live)
    async with asyncio.timeout(TIMEOUT_S):
        await guard.metrics.request_ended.wait()
    assert guard.metrics.refused == []


async def test_an_answer_that_nobody_takes(
    rest: StartRest, upstream: MethodicalUpstream, tensor: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that doesn't read its answer is cut off."""
    monkeypatch.setattr(app, "GRACE_S", 0.1)
    monkeypatch.setattr(app, "LEAST_BYTES_PER_S", 1 << 30)
    response = ModelInferResponse(raw_output_contents=[bytes(32 << 20)])
    response.outputs.add(name="out", datatype="UINT8", shape=[32 << 20])
    upstream.body = response.SerializeToString()
    guard = await rest(max_message_bytes=64 << 20)
    tensor["parameters"] = {"binary_data_output": True}
    text = json.dumps(tensor).encode()
    async with connected(guard.port) as connection:
        connection.begin("POST", INFER, len(text))
        connection.send(h11.Data(data=text))
        await guard.metrics.request_ended.wait()
        assert guard.server._running is not None
        connections = guard.server._running[0].server_state.connections
        await until(lambda: not connections)
        received = 0
        async with asyncio.timeout(TIMEOUT_S):
            try:
                while piece := await connection.reader.read(1 << 20):
                    received += len(piece)
            except ConnectionError:
                pass
    assert received < 32 << 20
