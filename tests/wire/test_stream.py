"""Streams: each message is screened and goes on as a call of its own would, on one stream at the upstream."""

from __future__ import annotations

import asyncio
import gzip

import grpc
import pytest

from guard.errors import ModelNotListed
from guard.pb.grpc_service_pb2 import ModelInferRequest, ModelStreamInferResponse
from guard.values import Course, InferRequest, Mode
from guard.wire.stream_judge import MAX_NAME_CHARACTERS
from tests.support.waiting import PATIENCE_S
from tests.wire.parts import Decide, Serve
from tests.wire.stream_parts import ByValue, marks, talk, unmarked, until
from tests.wire.stream_upstream import StreamingUpstream, request, response

GRPC_ERRORS = (("triton_grpc_error", "true"),)


class TestMessages:
    """What is forwarded, and what comes back."""

    async def test_a_conversation(self, serve: Serve, streams: StreamingUpstream, decide: Decide) -> None:
        """Requests arrive as they were sent, on one stream; answers come back as given, each with its verdict."""
        guard = await serve(ByValue(decide), address=streams.address)
        sent = [request(f"r{n}", value=n, sequence_id=7, sequence_start=n, priority=2) for n in range(3)]
        async with talk(guard, metadata=(("traceparent", "t"), ("guard-id", "forged"))) as client:
            await client.send(*sent)
            heard = await client.hear_all(3)
            assert (await client.end())[0] is grpc.StatusCode.OK
        assert streams.requests == sent
        assert [unmarked(each) for each in heard] == [response(each) for each in sent]
        assert [marks(each) for each in heard] == [("clean", f"d-{n}") for n in range(3)]
        (metadata,) = streams.metadata
        assert metadata["traceparent"] == "t"
        assert "guard-id" not in metadata
        await asyncio.wait_for(streams.half_closed.wait(), PATIENCE_S)

    async def test_canonical(self, serve: Serve, streams: StreamingUpstream) -> None:
        """The upstream gets what was screened: no forged parameters, no unknown or split fields."""
        guard = await serve(address=streams.address)
        plain = request("a", triton_enable_empty_final_response=1)
        forged = ModelInferRequest.FromString(plain.SerializeToString())
        forged.parameters["guard_verdict"].string_param = "clean"
        async with talk(guard) as client:
            await client.send(b"\x0a\x05other" + forged.SerializeToString() + b"\xa0\x06\x01")
            await client.hear()
        assert streams.received == [plain.SerializeToString(deterministic=True)]

    async def test_metadata_of_the_upstream(self, serve: Serve, streams: StreamingUpstream) -> None:
        """What the upstream says before its first answer reaches the client."""
        streams.initial_metadata = (("x-initial", "1"),)
        async with talk(await serve(address=streams.address)) as client:
            await client.send(request())
            await client.hear()
            assert dict(await client.call.initial_metadata())["x-initial"] == "1"

    async def test_nothing_sent(self, serve: Serve, streams: StreamingUpstream) -> None:
        """A stream without a message ends well, and costs the upstream nothing."""
        async with talk(await serve(address=streams.address)) as client:
            assert (await client.end())[:2] == (grpc.StatusCode.OK, "")
        assert not streams.metadata

    async def test_compressed(self, serve: Serve, streams: StreamingUpstream) -> None:
        """A compressed message is inflated, and forwarded as the others are."""
        async with talk(await serve(address=streams.address)) as client:
            await client.send(gzip.compress(request("z").SerializeToString()), request("plain"))
            assert [each.infer_response.id for each in await client.hear_all(2)] == ["z", "plain"]
        assert streams.requests == [request("z"), request("plain")]

    async def test_shadow(self, serve: Serve, streams: StreamingUpstream, decide: Decide) -> None:
        """In shadow mode nobody waits for a verdict and nothing shows; each message is judged and counted."""
        judge = ByValue(decide, rejected={2}, held={1: asyncio.Event()}, mode=Mode.SHADOW)
        guard = await serve(judge, address=streams.address, course=Course.BEHIND)
        sent = [request("a", value=1), request(value=2)]
        async with talk(guard) as client:
            await client.send(*sent)
            assert await client.hear_all(2) == [response(each) for each in sent]
            judge.held[1].set()
            assert await client.end() == (grpc.StatusCode.OK, "", {})
        await until(lambda: len(guard.metrics.finished) == 2)
        assert {each["decision"].verdict for each in guard.metrics.finished} == {"clean", "adversarial"}


class TestErrors:
    """Both of Triton's ways to tell an error on a stream."""

    async def test_rejected(self, serve: Serve, streams: StreamingUpstream, decide: Decide) -> None:
        """A rejection is an answer with a message, which names the request; the stream goes on."""
        guard = await serve(ByValue(decide, rejected={2}), address=streams.address)
        async with talk(guard) as client:
            await client.send(request("a", value=1), request("b", value=2), request("c", value=3))
            first, rejected, last = await client.hear_all(3)
            assert (await client.end())[0] is grpc.StatusCode.OK
        assert [each.infer_response.id for each in (first, rejected, last)] == ["a", "b", "c"]
        assert rejected.error_message.startswith("rejected by guard: adversarial input at item 0 of 1 [")
        assert marks(rejected) == ("adversarial", "d-2")
        assert rejected.infer_response.parameters["triton_final_response"].bool_param
        assert not first.error_message + last.error_message
        assert [each.id for each in streams.requests] == ["a", "c"]

    async def test_rejected_with_a_status(self, serve: Serve, streams: StreamingUpstream, decide: Decide) -> None:
        """With `triton_grpc_error: true` it ends the stream with its status, once what came before is answered."""
        guard = await serve(ByValue(decide, rejected={2}), address=streams.address)
        async with talk(guard, metadata=GRPC_ERRORS) as client:
            await client.send(request(value=1), request(value=2), request(value=3))
            assert marks(await client.hear()) == ("clean", "d-1")
            code, message, trailing = await client.ended()
        assert code is grpc.StatusCode.PERMISSION_DENIED
        assert "[guard_verdict=adversarial guard_id=d-2 guard_items=0]" in message
        assert (trailing["guard-verdict"], trailing["guard-id"]) == ("adversarial", "d-2")
        assert [each.raw_input_contents[0] for each in streams.requests] == [b"\1"]
        assert streams.metadata[0]["triton_grpc_error"] == "true"

    async def test_the_first_is_rejected_with_a_status(
        self, serve: Serve, streams: StreamingUpstream, decide: Decide
    ) -> None:
        """Where nothing was forwarded before, the upstream hears nothing at all."""
        guard = await serve(ByValue(decide, rejected={1}), address=streams.address)
        async with talk(guard, metadata=GRPC_ERRORS) as client:
            await client.send(request(value=1))
            assert (await client.ended())[0] is grpc.StatusCode.PERMISSION_DENIED
        assert not streams.metadata

    async def test_errors_of_the_upstream(self, serve: Serve, streams: StreamingUpstream) -> None:
        """Triton's own errors pass, with the verdict that the request had."""
        streams.answer = lambda r: [
            response(r, error="failed") if r.id else ModelStreamInferResponse(error_message="no such output")
        ]
        async with talk(await serve(address=streams.address)) as client:
            await client.send(request("a"), request(), request("b"))
            heard = await client.hear_all(3)
        assert [each.error_message for each in heard] == ["failed", "no such output", "failed"]
        assert [marks(each) for each in heard] == [("clean", "d-1")] * 3

    async def test_a_status_of_the_upstream(self, serve: Serve, streams: StreamingUpstream) -> None:
        """A status by which the upstream ends the stream is the client's, with its metadata."""
        streams.ending = (grpc.StatusCode.FAILED_PRECONDITION, "not today")
        async with talk(await serve(address=streams.address)) as client:
            await client.send(request())
            await client.hear()
            code, message, trailing = await client.ended()
        assert (code, message) == streams.ending
        assert trailing["x-why"] == "told"

    @pytest.mark.parametrize(
        ("message", "says"),
        [
            (b"\x3a\xff", "truncated"),
            (request("r").SerializeToString() + b"\x3a\x01x", "has 2 raw_input_contents for 1 input"),
            (gzip.compress(bytes(200_000)), "inflates to more than upstream.max_message_bytes allows (100000)"),
            (gzip.compress(b"x")[:-3], "ends too early"),
            (request("i" * (MAX_NAME_CHARACTERS + 1)).SerializeToString(), "a stream takes 4096 at most"),
        ],
        ids=["broken", "contradictory", "bomb", "broken gzip", "long id"],
    )
    async def test_refused(self, serve: Serve, streams: StreamingUpstream, message: bytes, says: str) -> None:
        """A message that Guard refuses is answered with why and an id, counted, and harms no other."""
        guard = await serve(address=streams.address, max_message_bytes=100_000)
        async with talk(guard) as client:
            await client.send(message, request("next"))
            refused, answered = await client.hear_all(2)
        assert says in refused.error_message
        assert refused.error_message.endswith(f"[guard_id={marks(refused)[0]}]")
        assert answered.infer_response.id == "next"
        assert len(guard.metrics.refused) == 1
        assert [each["decision"] is None for each in guard.metrics.finished] == [True, False]

    async def test_too_large(self, serve: Serve, streams: StreamingUpstream) -> None:
        """A message that gRPC itself does not take ends the stream, as it would at the server."""
        guard = await serve(address=streams.address, max_message_bytes=100_000)
        async with talk(guard) as client:
            await client.send(request("first"))
            assert (await client.hear()).infer_response.id == "first"
            await client.send(bytes(100_001))
            code, message, _ = await client.ended()
        assert (code, "larger than max (100001 vs. 100000)" in message) == (grpc.StatusCode.RESOURCE_EXHAUSTED, True)

    async def test_a_model_that_is_not_listed(self, serve: Serve, streams: StreamingUpstream) -> None:
        """A model outside the policy is refused, request by request, and the upstream isn't asked about it."""
        guard = await serve(address=streams.address)
        course = guard.screener.course

        def only_digits(model: str, version: str = "") -> Course:
            if model != "digits":
                raise ModelNotListed(f"model {model!r} is not under guard")
            return course(model, version)

        guard.screener.course = only_digits
        async with talk(guard) as client:
            await client.send(request("a", model="other"), request("b"))
            refused, answered = await client.hear_all(2)
        assert "model 'other' is not under guard" in refused.error_message
        assert (refused.infer_response.id, answered.infer_response.id) == ("a", "b")
        assert "other" not in streams.configs

    async def test_an_answer_over_the_limit(self, serve: Serve, streams: StreamingUpstream) -> None:
        """An answer over max_message_bytes is an error in its place, and the stream goes on."""
        streams.answer = lambda r: [response(r, body=bytes(150_000) if r.id == "a" else b"1")]
        guard = await serve(address=streams.address, max_message_bytes=100_000)
        async with talk(guard) as client:
            await client.send(request("a"), request("b"))
            large, small = await client.hear_all(2)
        assert "the upstream's answer has 150" in large.error_message
        assert (large.infer_response.id, small.infer_response.id) == ("a", "b")
        assert marks(small) == ("clean", "d-1")
        assert guard.metrics.refused == ["message_too_large"]

    async def test_a_bug(self, serve: Serve, streams: StreamingUpstream) -> None:
        """What goes wrong in Guard is told as such, without its cause."""

        async def fail(_asked: InferRequest) -> None:
            raise RuntimeError("a secret")

        async with talk(await serve(fail, address=streams.address)) as client:
            await client.send(request("a"))
            heard = await client.hear()
        assert heard.error_message.startswith("guard failed to handle the request; its log has the cause [guard_id=")
        assert not streams.received


class TestAccounts:
    """What streams leave in metrics and logs."""

    async def test_each_message_counts(self, serve: Serve, streams: StreamingUpstream, decide: Decide) -> None:
        """Messages count as calls do, each with an id; the stream at the upstream counts once, and has no duration."""
        guard = await serve(ByValue(decide, rejected={2}), address=streams.address)
        async with talk(guard) as client:
            await client.send(request(value=1), request(value=2))
            await client.hear_all(2)
            await client.end()
        await until(lambda: len(guard.metrics.upstream) == 2)
        assert [(each["model"], each["protocol"]) for each in guard.metrics.finished] == [("digits", "grpc")] * 2
        assert {each["decision"].id for each in guard.metrics.finished} == {"d-1", "d-2"}
        assert all(0 < each["overhead_s"] <= each["duration_s"] < PATIENCE_S for each in guard.metrics.finished)
        assert len(set(guard.screener.ids)) == 2
        assert [(each["model"], each["code"]) for each in guard.metrics.upstream] == [("", "OK")] * 2
        assert guard.metrics.upstream[-1]["duration_s"] is None
        assert guard.metrics.live == 0
