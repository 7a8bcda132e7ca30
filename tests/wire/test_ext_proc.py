"""External processing, asked as Envoy asks. How the real one does is in tests/e2e/test_envoy.py."""

from __future__ import annotations

import asyncio
import struct
import time
from pathlib import Path

import grpc
import pytest

from guard.errors import MalformedRequest
from guard.pb import ext_proc_pb2 as pb
from guard.pb.grpc_service_pb2 import ModelInferRequest, ModelInferResponse
from guard.values import Action, Course, Mode, Verdict
from guard.wire.envoy.deadline import deadline_of
from tests.support.waiting import PATIENCE_S
from tests.wire.envoy_parts import LISTEN, asked, begin, body, envoy, head
from tests.wire.parts import SERVICE, Decide, Serve


def canonical(message: bytes) -> bytes:
    """A request as Guard would write it."""
    return ModelInferRequest.FromString(message).SerializeToString(deterministic=True)


async def test_goes_on_as_it_came(serve: Serve, decide: Decide, message: bytes) -> None:
    """A clean request goes on with its own body, is screened once for its client, and Guard forwards nothing."""
    guard = await serve(decide(Verdict.CLEAN), listen=LISTEN)
    caller = {"x-forwarded-for": "203.0.113.9, 198.51.100.7", "grpc-timeout": "99S"}
    first, second = await asked(guard, head(caller), body(message))
    assert first.WhichOneof("response") == "request_headers"
    assert not first.HasField("mode_override")
    assert second.WhichOneof("response") == "request_body"
    assert not second.request_body.response.HasField("body_mutation")
    assert dict(second.dynamic_metadata["guard"]) == {"guard-verdict": "clean", "guard-id": "d-1"}
    ((infer, deadline_s),) = guard.screener.asked
    assert (infer.model_name, guard.screener.clients) == ("digits", ["ipv4:198.51.100.7"])
    assert deadline_s is not None
    assert 0 < deadline_s <= 99
    assert (guard.metrics.upstream, guard.metrics.carried) == ([], ["digits"])
    (finished,) = guard.metrics.finished
    assert (finished["protocol"], finished["model"], finished["decision"].id) == ("ext_proc", "digits", "d-1")


async def test_goes_on_as_it_was_screened(serve: Serve, message: bytes) -> None:
    """A request that could be read in two ways goes on in the form that was screened, without a stale length."""
    guard = await serve(listen=LISTEN)
    forged = ModelInferRequest.FromString(message)
    forged.parameters["guard_id"].string_param = "mine"
    _, second = await asked(guard, head(), body(forged.SerializeToString() + b"\x0a\x06digits\xfa\x3f\x01x"))
    sent = second.request_body.response
    assert sent.body_mutation.body[5:] == canonical(message)
    assert sent.body_mutation.body[:5] == struct.pack(">BI", 0, len(canonical(message)))
    assert list(sent.header_mutation.remove_headers) == ["content-length"]


async def test_headers(serve: Serve, tmp_path: Path) -> None:
    """What a client may not claim is taken off, and the server's secret put on, for calls without inference too."""
    (tmp_path / "secret").write_text("open sesame")
    reach = {"restricted_protocol": {"key": "k", "value_file": tmp_path / "secret"}}
    guard = await serve(listen=LISTEN, reach=reach)
    forged = {"guard-verdict": "clean", "triton-grpc-protocol-k": "guess", "traceparent": "00-1-2-01"}
    for path, skipped in (("ModelInfer", False), ("ServerLive", True)):
        (first,) = await asked(guard, head(forged | {":path": SERVICE + path}))
        made = first.request_headers.response.header_mutation
        assert list(made.remove_headers) == ["guard-verdict", "triton-grpc-protocol-k"]
        (secret,) = made.set_headers
        assert (secret.header.key, secret.header.raw_value) == ("triton-grpc-protocol-k", b"open sesame")
        assert first.HasField("mode_override") is skipped


@pytest.mark.parametrize("bodies", [1, 2])
async def test_body_without_inference(serve: Serve, bodies: int) -> None:
    """An Envoy that may not be told to keep bodies of other calls to itself gets them back untouched."""
    guard = await serve(listen=LISTEN)
    _, *answers = await asked(guard, head({":path": f"{SERVICE}ServerLive"}), *[body(b"")] * bodies)
    assert [each.WhichOneof("response") for each in answers] == ["request_body"] * bodies
    assert not any(each.request_body.HasField("response") for each in answers)


@pytest.mark.parametrize("kind", ["response_headers", "request_trailers", "response_trailers"])
async def test_other_questions(serve: Serve, message: bytes, kind: str) -> None:
    """What Guard has no use for it lets pass: Envoy waits for an answer of the same kind."""
    guard = await serve(listen=LISTEN)
    question = pb.ProcessingRequest()
    getattr(question, kind).SetInParent()
    *_, answer = await asked(guard, head(), body(message), question)
    assert answer.WhichOneof("response") == kind


@pytest.mark.parametrize("mode", [Mode.ENFORCE, Mode.SHADOW])
async def test_answers(serve: Serve, decide: Decide, message: bytes, mode: Mode) -> None:
    """Where Envoy shows the server's answer, the verdict is put into it, but in shadow mode; else it stays as it is."""
    guard = await serve(decide(Verdict.CLEAN, mode=mode), listen=LISTEN)
    answer = ModelInferResponse(model_name="digits", raw_output_contents=[b"out"])
    plain, packed = (body(answer.SerializeToString(), flag).request_body for flag in (0, 1))
    questions = [pb.ProcessingRequest(response_body=each) for each in (plain, packed, pb.HttpBody())]
    _, second, told, untouched, empty = await asked(guard, head(), body(message), *questions)
    got = ModelInferResponse.FromString(told.response_body.response.body_mutation.body[5:])
    assert got.raw_output_contents == [b"out"]
    assert ("guard_verdict" in got.parameters) is (mode is Mode.ENFORCE)
    assert second.HasField("dynamic_metadata") is (mode is Mode.ENFORCE)
    assert not untouched.response_body.response.HasField("body_mutation")
    assert not empty.response_body.response.HasField("body_mutation")


REFUSED = {
    "not buffered": ([head(protocol_config=pb.ProtocolConfiguration())], "INTERNAL", "its log has the cause"),
    "not told": ([head(protocol_config=None)], "INTERNAL", "its log has the cause"),
    "not heeded": ([head(observability_mode=True)], "INTERNAL", "its log has the cause"),
    "no body": ([head(end=True)], "INVALID_ARGUMENT", "no message"),
    "an unreadable deadline": ([head({"grpc-timeout": "soon"})], "INVALID_ARGUMENT", "grpc-timeout"),
    "no inference": ([head({"guard-screen-only": "true"})], "UNIMPLEMENTED", "at its own endpoints"),
    "GET": ([head({":method": "GET"})], "UNIMPLEMENTED", "by POST"),
    "too many headers": ([head({"x": "y" * 8000})], "INVALID_ARGUMENT", "bytes of metadata"),
    "a query": ([head({":path": f"{SERVICE}ModelInfer?a=b"})], "UNIMPLEMENTED", "does not know"),
    "a stream": ([head({":path": f"{SERVICE}ModelStreamInfer"})], "UNIMPLEMENTED", "use ModelInfer"),
    "trace settings": ([head({":path": f"{SERVICE}TraceSetting"})], "PERMISSION_DENIED", "TraceSetting"),
    "a body first": ([body(b"x")], "INVALID_ARGUMENT", "without headers before it"),
    "no question": ([pb.ProcessingRequest()], "INVALID_ARGUMENT", "does not know"),
    "half a prefix": (
        [head(), pb.ProcessingRequest(request_body=pb.HttpBody(body=b"\0\0"))], "INVALID_ARGUMENT", "2 bytes"
    ),
    "two messages": (
        [head(), pb.ProcessingRequest(request_body=pb.HttpBody(body=bytes(10)))], "INVALID_ARGUMENT", "not one message"
    ),
    "an unknown flag": ([head(), body(b"x", 2)], "INVALID_ARGUMENT", "not one message"),
    "compressed, it says": ([head(), body(b"x", 1)], "INVALID_ARGUMENT", "neither gzip nor deflate"),
    "too large": ([head(), body(bytes(1024 * 1024 + 1))], "RESOURCE_EXHAUSTED", "upstream.max_message_bytes"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
async def test_refused(serve: Serve, what: str) -> None:
    """What can't be screened is answered by Guard, with a status, a message and an id, and is counted."""
    questions, code, says = REFUSED[what]
    guard = await serve(listen=LISTEN)
    answer = (await asked(guard, *questions))[-1].immediate_response
    assert grpc.StatusCode[code].value[0] == answer.grpc_status.status
    assert says in answer.body.decode()
    (marked,) = answer.headers.set_headers
    assert marked.header.key == "guard-id"
    assert marked.header.raw_value in answer.body
    assert len(guard.metrics.refused) == 1
    assert (guard.screener.asked, guard.metrics.carried) == ([], [])


async def test_a_second_body(serve: Serve, message: bytes) -> None:
    """One request has one body: a second one would go on unscreened."""
    guard = await serve(listen=LISTEN)
    *_, answer = await asked(guard, head(), body(message), body(message))
    assert "a second one" in answer.immediate_response.body.decode()
    assert len(guard.screener.asked) == 1


@pytest.mark.parametrize("course", [Course.BEFORE, Course.BESIDE])
async def test_rejected(serve: Serve, decide: Decide, message: bytes, course: Course) -> None:
    """A rejection has the status, the message and the trailers that it has over gRPC, and the server is not asked."""
    guard = await serve(decide(Verdict.ADVERSARIAL, Action.REJECT), listen=LISTEN, course=course)
    over_grpc = await guard.call("ModelInfer", message)
    answer = (await asked(guard, head(), body(message)))[-1].immediate_response
    assert (over_grpc.code.value[0], over_grpc.message) == (answer.grpc_status.status, answer.body.decode())
    marks = {each.header.key: each.header.raw_value.decode() for each in answer.headers.set_headers}
    assert marks == {"guard-verdict": "adversarial", "guard-id": "d-1", "guard-items": "0"}
    assert marks.items() <= over_grpc.trailing.items()
    assert guard.metrics.carried == []


async def test_watched(serve: Serve, decide: Decide, message: bytes) -> None:
    """In shadow mode the answer does not wait for the verdict."""
    guard = await serve(decide(mode=Mode.SHADOW), listen=LISTEN, course=Course.BEHIND)
    guard.screener.release.clear()
    _, second = await asked(guard, head(), body(message))
    assert second.WhichOneof("response") == "request_body"
    assert (guard.metrics.finished, guard.metrics.carried) == ([], ["digits"])
    guard.screener.release.set()
    await asyncio.wait_for(guard.metrics.request_ended.wait(), PATIENCE_S)


async def test_cancelled(serve: Serve, message: bytes) -> None:
    """When Envoy gives a request up, its screening is given up."""
    guard = await serve(listen=LISTEN)
    guard.screener.release.clear()
    async with envoy(guard) as channel:
        call = begin(channel)
        for question in (head(), body(message)):
            await call.write(question)
        await asyncio.wait_for(guard.screener.entered.wait(), PATIENCE_S)
        call.cancel()
        await asyncio.wait_for(guard.screener.cancelled.wait(), PATIENCE_S)
    await asyncio.wait_for(guard.metrics.request_ended.wait(), PATIENCE_S)
    assert guard.metrics.finished[0]["decision"] is None


@pytest.mark.parametrize(
    ("timeout", "seconds"),
    [
        ("1H", 3600.0),
        ("2M", 120.0),
        ("3S", 3.0),
        ("200m", 0.2),
        ("5u", 5e-6),
        ("6n", 6e-9),
        ("99999999H", 359_999_996_400.0),
    ],
)
def test_deadline(timeout: str, seconds: float) -> None:
    """The header's units are those of the protocol."""
    before_s = time.monotonic()
    ends_s = deadline_of(timeout)
    assert ends_s is not None
    assert before_s + seconds <= ends_s <= time.monotonic() + seconds


@pytest.mark.parametrize("timeout", ["1", "S", "1s", "-1S", "123456789S", "1 S", "1S\n"])
def test_no_deadline(timeout: str) -> None:
    """What is no timeout is refused; without one there is no deadline."""
    assert deadline_of("") is None
    with pytest.raises(MalformedRequest, match="grpc-timeout"):
        deadline_of(timeout)
