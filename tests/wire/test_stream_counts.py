"""What became of each message of a stream: what the server answers is counted as it answers."""

from __future__ import annotations

import grpc
import pytest

from guard.pb.grpc_service_pb2 import ModelInferRequest, ModelInferResponse, ModelStreamInferResponse
from guard.values import Mode
from tests.wire.parts import Decide, Serve
from tests.wire.stream_parts import ByValue, talk, until
from tests.wire.stream_upstream import StreamingUpstream, request, response


def refused(to: ModelInferRequest) -> ModelStreamInferResponse:
    """Triton's answer to a request that did not get as far as its model."""
    return ModelStreamInferResponse(error_message="unexpected shape", infer_response=ModelInferResponse(id=to.id))


def broken(to: ModelInferRequest) -> ModelStreamInferResponse:
    """Its answer where the model failed."""
    return response(to, error="broken")


KINDS = {1: response, 2: refused, 3: broken}


def by_value(to: ModelInferRequest) -> list[ModelStreamInferResponse]:
    """An answer of the kind that a request asks for, 0 for none."""
    value = to.raw_input_contents[0][0]
    return [KINDS[value](to)] if value else []


async def test_each_as_it_is_answered(serve: Serve, streams: StreamingUpstream, decide: Decide) -> None:
    """While the stream is open: one of a model that failed is unknown, for Triton may count it as a success."""
    streams.answer = by_value
    guard = await serve(ByValue(decide), address=streams.address)
    async with talk(guard) as client:
        await client.send(*(request(f"{value}", value=value) for value in (1, 2, 3)))
        await client.hear_all(3)
        assert guard.metrics.streamed == [("digits", "answered"), ("digits", "failed"), ("digits", "unknown")]
        assert (await client.end())[0] is grpc.StatusCode.OK
    assert len(guard.metrics.streamed) == 3


async def test_decoupled(serve: Serve, streams: StreamingUpstream, decide: Decide) -> None:
    """A message with many answers counts once."""
    streams.decoupled = {"digits"}
    streams.answer = lambda r: [response(r, final=final) for final in (False, False, True)]
    guard = await serve(ByValue(decide), address=streams.address)
    async with talk(guard) as client:
        await client.send(request("a"), request("b"))
        await client.hear_all(6)
        await client.end()
    assert guard.metrics.streamed == [("digits", "answered")] * 2


@pytest.mark.parametrize("how", ["ends", "leaves", "fails", "dies"])
async def test_unanswered(serve: Serve, streams: StreamingUpstream, decide: Decide, how: str) -> None:
    """What has no answer when the stream is over may have run, however it is over."""
    streams.answer = by_value
    guard = await serve(ByValue(decide), address=streams.address)
    async with talk(guard) as client:
        await client.send(request("a"))
        await client.hear()
        await client.send(request("b", value=0))
        await until(lambda: len(streams.received) == 2)
        if how == "ends":
            await client.end()
        elif how == "leaves":
            client.call.cancel()
        elif how == "fails":
            streams.ending = (grpc.StatusCode.INVALID_ARGUMENT, "a model says so")
            await client.send(request("c", value=0))
        else:
            await streams.stop()
        await until(lambda: len(guard.metrics.streamed) >= 2 + (how == "fails"))
    assert guard.metrics.streamed == [("digits", "answered")] + [("digits", "unknown")] * (1 + (how == "fails"))


async def test_not_sent(serve: Serve, streams: StreamingUpstream, decide: Decide) -> None:
    """What Guard refuses does not count."""
    guard = await serve(ByValue(decide, rejected={2}), address=streams.address)
    async with talk(guard) as client:
        await client.send(request("a", value=2))
        await client.hear()
        await client.end()
    assert guard.metrics.streamed == []


async def test_by_a_foreign_server(serve: Serve, streams: StreamingUpstream, decide: Decide) -> None:
    """A server whose answers tell nothing leaves all unknown, and each counts once."""
    streams.answer = lambda _: [ModelStreamInferResponse.FromString(b"\xfa\x3f\x01x")]
    guard = await serve(ByValue(decide, mode=Mode.SHADOW), address=streams.address)
    async with talk(guard) as client:
        for name in "abc":
            await client.send(request(name))
            await client.hear()
        await client.end()
    assert guard.metrics.streamed == [("digits", "unknown")] * 3
