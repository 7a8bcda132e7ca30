"""What a caller is told of a decision, the same whichever way the answer goes: the verdict, the id, and the rest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

import pytest
from google.protobuf.message import Message

from guard.pb import ext_proc_pb2 as pb
from guard.pb.grpc_service_pb2 import ModelInferResponse
from guard.values import Action, Decision, InferRequest, Mode, Verdict
from guard.wire.status import MAX_LISTED_ITEMS
from tests.wire.envoy_parts import LISTEN, asked, body, head
from tests.wire.parts import Decide, RecordingUpstream, Serve
from tests.wire.stream_parts import talk
from tests.wire.stream_upstream import StreamingUpstream, request

BATCH = (Verdict.ADVERSARIAL, Verdict.CLEAN, Verdict.ADVERSARIAL)
MARKS = {"guard_verdict": "adversarial", "guard_id": "d-1", "guard_items": "0,2", "guard_approximate": True}
TRAILERS = {
    "guard-verdict": "adversarial",
    "guard-id": "d-1",
    "guard-items": "0,2",
    "guard-approximate": "true",
}
Told: TypeAlias = Callable[[Mode], Decision]


@pytest.fixture
def told(decide: Decide) -> Told:
    """An approximate decision on a batch of which two items are adversarial, flagged or rejected by the mode."""
    actions = {Mode.SHADOW: Action.FORWARD, Mode.FLAG: Action.FLAG, Mode.ENFORCE: Action.REJECT}
    return lambda mode: replace(decide(Verdict.ADVERSARIAL, actions[mode], mode=mode, items=BATCH), approximate=True)


def parameters(response: Message) -> dict[str, str | bool]:
    """Those of Guard in an answer."""
    held = response.parameters
    return {
        name: getattr(value, value.WhichOneof("parameter_choice"))
        for name, value in held.items()
        if name.startswith("guard_")
    }


async def test_an_answer(serve: Serve, told: Told, message: bytes) -> None:
    """A flagged batch's answer names the items, in parameters and trailers."""
    answer = await (await serve(told(Mode.FLAG))).call("ModelInfer", message)
    assert parameters(ModelInferResponse.FromString(answer.body)) == MARKS
    assert answer.trailing == TRAILERS


async def test_a_rejection(serve: Serve, told: Told, message: bytes) -> None:
    """So does a rejection, in its message and trailers."""
    answer = await (await serve(told(Mode.ENFORCE))).call("ModelInfer", message)
    assert answer.message.endswith(" [guard_verdict=adversarial guard_id=d-1 guard_items=0,2 guard_approximate=true]")
    assert answer.trailing == TRAILERS


async def test_shadow(serve: Serve, upstream: RecordingUpstream, told: Told, message: bytes) -> None:
    """In shadow mode an answer shows nothing."""
    answer = await (await serve(told(Mode.SHADOW))).call("ModelInfer", message)
    assert (answer.body, answer.trailing) == (upstream.body, {})


async def test_many_items(serve: Serve, decide: Decide, message: bytes) -> None:
    """An answer names all items; trailers, which have little room, count what is too much for them."""
    decision = decide(Verdict.ADVERSARIAL, Action.FLAG, mode=Mode.FLAG, items=(Verdict.ADVERSARIAL,) * 40)
    answer = await (await serve(decision)).call("ModelInfer", message)
    marks = parameters(ModelInferResponse.FromString(answer.body))
    assert marks["guard_items"] == ",".join(map(str, range(40)))
    assert answer.trailing["guard-items"] == ",".join(map(str, range(MAX_LISTED_ITEMS)))
    assert answer.trailing["guard-items-omitted"] == "24"
    assert "guard_items_omitted" not in marks


@pytest.mark.parametrize("verdict", [Verdict.CLEAN, Verdict.UNSCREENED])
async def test_nobody_is_blamed(serve: Serve, decide: Decide, message: bytes, verdict: Verdict) -> None:
    """No item is named where all are clean, or where nobody looked."""
    answer = await (await serve(decide(verdict, Action.FLAG, mode=Mode.FLAG))).call("ModelInfer", message)
    assert parameters(ModelInferResponse.FromString(answer.body)) == {"guard_verdict": verdict, "guard_id": "d-1"}
    assert answer.trailing == {"guard-verdict": verdict, "guard-id": "d-1"}


@pytest.mark.parametrize("mode", Mode)
async def test_a_stream(serve: Serve, streams: StreamingUpstream, told: Told, mode: Mode) -> None:
    """On a stream an answer's parameters have the marks, and those of a rejection as well."""

    async def screen(_request: InferRequest) -> Decision:
        return told(mode)

    guard = await serve(screen, address=streams.address)
    async with talk(guard) as client:
        await client.send(request("a"))
        heard = await client.hear()
    assert parameters(heard.infer_response) == ({} if mode is Mode.SHADOW else MARKS)
    assert bool(heard.error_message) is (mode is Mode.ENFORCE)


async def test_envoy(serve: Serve, told: Told, message: bytes) -> None:
    """Where Envoy carries the traffic, it is told too, and puts it into the answer."""
    guard = await serve(told(Mode.FLAG), listen=LISTEN)
    answered = pb.ProcessingRequest(response_body=body(ModelInferResponse().SerializeToString()).request_body)
    _, second, answer = await asked(guard, head(), body(message), answered)
    assert dict(second.dynamic_metadata["guard"]) == TRAILERS
    got = ModelInferResponse.FromString(answer.response_body.response.body_mutation.body[5:])
    assert parameters(got) == MARKS


async def test_envoy_rejects(serve: Serve, told: Told, message: bytes) -> None:
    """And so is who is rejected there."""
    guard = await serve(told(Mode.ENFORCE), listen=LISTEN)
    *_, rejected = await asked(guard, head(), body(message))
    headers = rejected.immediate_response.headers.set_headers
    assert {each.header.key: each.header.raw_value.decode() for each in headers} == TRAILERS
