"""What calls leave in the metrics."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

from guard.errors import MalformedRequest
from guard.pb.grpc_service_pb2 import ModelInferRequest
from tests.wire.parts import Serve


async def test_forwarded(serve: Serve, message: bytes) -> None:
    """A request reports its decision, its time, and how much of it was not the upstream's."""
    guard = await serve()
    await guard.call("ModelInfer", message)
    (finished,) = guard.metrics.finished
    assert (finished["decision"].id, finished["model"], finished["protocol"]) == ("d-1", "digits", "grpc")
    (asked,) = guard.metrics.upstream
    assert (asked["model"], asked["code"]) == ("digits", "OK")
    assert 0 < finished["overhead_s"] <= finished["duration_s"] - asked["duration_s"]
    assert finished["live"] == 1
    assert guard.metrics.live == 0


async def test_pass_through(serve: Serve) -> None:
    """A call that carries no inference reports the upstream's answer, without a model's name."""
    guard = await serve()
    await guard.call("ModelConfig")
    assert [(call["model"], call["code"]) for call in guard.metrics.upstream] == [("", "OK")]
    assert guard.metrics.finished == []


async def test_refused(serve: Serve, message: bytes) -> None:
    """A request that is refused counts under the model that it names, from when its name could be read."""
    guard = await serve(MalformedRequest("no"))
    await guard.call("ModelInfer", message)
    await guard.call(
        "ModelInfer", ModelInferRequest(model_name="digits", raw_input_contents=[b"x"]).SerializeToString()
    )
    await guard.call("ModelInfer", b"\x3a\xff")
    assert [(each["model"], each["decision"]) for each in guard.metrics.finished] == [
        ("digits", None),
        ("digits", None),
        ("", None),
    ]


async def test_time_is_not_taken_before_the_message_is_there(serve: Serve, message: bytes) -> None:
    """How long a client takes to send its request is no part of the request's duration."""
    guard, sent_s = await serve(), 0.0

    async def late() -> AsyncIterator[bytes]:
        nonlocal sent_s
        await asyncio.sleep(0.5)
        sent_s = time.perf_counter()
        yield message

    await guard.channel.stream_unary("/inference.GRPCInferenceService/ModelInfer")(late())
    assert guard.metrics.finished[0]["duration_s"] < time.perf_counter() - sent_s
