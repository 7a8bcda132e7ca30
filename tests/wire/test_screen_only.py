"""Requests that ask for a verdict and no inference, over gRPC."""

from __future__ import annotations

import pytest
from grpc import StatusCode

from guard.config import ScreenOnly
from guard.pb.grpc_service_pb2 import ModelInferResponse
from guard.values import Action, Course, Mode, UnscreenedReason, Verdict
from guard.wire.screen_only import HEADER
from tests.wire.parts import SERVICE, Decide, RecordingUpstream, Serve

ASKED = ((HEADER, "true"),)
BATCH = (Verdict.ADVERSARIAL, Verdict.CLEAN, Verdict.ADVERSARIAL)


def parameters(body: bytes) -> dict[str, str | bool]:
    """Those of an answer."""
    held = ModelInferResponse.FromString(body).parameters
    return {name: getattr(value, value.WhichOneof("parameter_choice")) for name, value in held.items()}


@pytest.mark.parametrize("course", [Course.BEFORE, Course.BESIDE])
async def test_the_verdict_comes_back_alone(
    serve: Serve, upstream: RecordingUpstream, decide: Decide, message: bytes, course: Course
) -> None:
    """A rejection is an answer too: which items, and what the policy would do. Nothing reaches the server."""
    guard = await serve(decide(Verdict.ADVERSARIAL, Action.REJECT, items=BATCH), course=course)
    answer = await guard.call("ModelInfer", message, metadata=ASKED)
    assert answer.code is StatusCode.OK
    assert parameters(answer.body) == {
        "guard_verdict": "adversarial",
        "guard_id": "d-1",
        "guard_items": "0,2",
        "guard_action": "reject",
        "guard_screen_only": True,
    }
    said = ModelInferResponse.FromString(answer.body)
    assert (said.model_name, said.id, len(said.outputs)) == ("digits", "7", 0)
    assert (answer.trailing["guard-verdict"], upstream.received) == ("adversarial", [])
    assert [(each["screen_only"], each["decision"].action) for each in guard.metrics.finished] == [(True, "reject")]


async def test_without_the_header(serve: Serve, upstream: RecordingUpstream, message: bytes) -> None:
    """A request that does not ask for it is forwarded, and not counted as one."""
    guard = await serve()
    assert "guard_screen_only" not in parameters((await guard.call("ModelInfer", message)).body)
    assert (len(upstream.inferred()), guard.metrics.finished[0]["screen_only"]) == (1, False)


async def test_clean_items_are_not_listed(serve: Serve, message: bytes) -> None:
    """Where nothing is wrong with a request, no item is blamed."""
    answer = await (await serve()).call("ModelInfer", message, metadata=ASKED)
    assert parameters(answer.body).keys() == {"guard_verdict", "guard_id", "guard_action", "guard_screen_only"}


async def test_unscreened_and_rejected(serve: Serve, decide: Decide, message: bytes) -> None:
    """What could not be screened is told with the status that a client retries."""
    guard = await serve(decide(Verdict.UNSCREENED, Action.REJECT, reason=UnscreenedReason.OVERLOAD))
    answer = await guard.call("ModelInfer", message, metadata=ASKED)
    assert (answer.code, "retry with backoff" in answer.message) == (StatusCode.RESOURCE_EXHAUSTED, True)


@pytest.mark.parametrize("value", ["", "false", "True", "1", "true, true"])
async def test_another_value(serve: Serve, upstream: RecordingUpstream, message: bytes, value: str) -> None:
    """Whatever else the header says is refused: nobody is given an inference that may not have been wanted."""
    guard = await serve()
    answer = await guard.call("ModelInfer", message, metadata=((HEADER, value),))
    assert (answer.code, upstream.received) == (StatusCode.INVALID_ARGUMENT, [])
    assert "leave it out to have inference" in answer.message


async def test_twice(serve: Serve, upstream: RecordingUpstream, message: bytes) -> None:
    """Nor is the header read one way or the other where it comes twice."""
    answer = await (await serve()).call("ModelInfer", message, metadata=((HEADER, "false"), (HEADER, "true")))
    assert (answer.code, upstream.received) == (StatusCode.INVALID_ARGUMENT, [])


async def test_denied(serve: Serve, upstream: RecordingUpstream, message: bytes) -> None:
    """Unless the policy allows it, the request is refused, unscreened, and the message says what would allow it."""
    guard = await serve(screen_only=ScreenOnly.DENY)
    answer = await guard.call("ModelInfer", message, metadata=ASKED)
    assert (answer.code, upstream.received, guard.screener.asked) == (StatusCode.PERMISSION_DENIED, [], [])
    assert "set `screen_only: allow` in its policy" in answer.message
    assert guard.metrics.refused == ["method_denied"]


async def test_shadow(serve: Serve, upstream: RecordingUpstream, decide: Decide, message: bytes) -> None:
    """In shadow mode, which shows nothing, there is nothing to tell, and nothing is forwarded instead."""
    guard = await serve(decide(mode=Mode.SHADOW), course=Course.BEHIND)
    answer = await guard.call("ModelInfer", message, metadata=ASKED)
    assert (answer.code, upstream.received) == (StatusCode.PERMISSION_DENIED, [])
    assert "shadow mode" in answer.message


async def test_streams(serve: Serve, upstream: RecordingUpstream, message: bytes) -> None:
    """A stream with the header ends before anything is forwarded."""
    guard = await serve()
    call = guard.channel.stream_stream(f"{SERVICE}ModelStreamInfer")(iter([message]), metadata=ASKED)
    assert (await call.code(), upstream.received) == (StatusCode.UNIMPLEMENTED, [])
    assert "not for streams" in await call.details()
