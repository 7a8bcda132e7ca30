"""ModelInfer through a guard: what the upstream gets, and what the client gets back."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from guard.errors import BackendError, MalformedRequest, ModelNotListed, NonFiniteInput
from guard.pb.grpc_service_pb2 import ModelInferResponse
from guard.values import Action, Mode, Verdict
from tests.wire.parts import Decide, RecordingUpstream, Serve

EIGHT = (Verdict.CLEAN,) * 3 + (Verdict.ADVERSARIAL,) + (Verdict.CLEAN,) * 4


class TestForwarding:
    """Requests that policy lets through."""

    async def test_clean(self, serve: Serve, upstream: RecordingUpstream, message: bytes) -> None:
        """A clean request is sent on in canonical form; its answer carries the verdict in parameters and trailers."""
        guard = await serve()
        answer = await guard.call("ModelInfer", message + b"\xa0\x06\x01")  # an unknown field
        assert answer.code is grpc.StatusCode.OK
        assert [call.message for call in upstream.inferred()] == [message]
        response = ModelInferResponse.FromString(answer.body)
        assert {key: value.string_param for key, value in response.parameters.items()} == {
            "guard_verdict": "clean",
            "guard_id": "d-1",
        }
        assert response.raw_output_contents == [b"out"]
        assert (answer.trailing["guard-verdict"], answer.trailing["guard-id"]) == ("clean", "d-1")

    async def test_flagged(self, serve: Serve, upstream: RecordingUpstream, decide: Decide, message: bytes) -> None:
        """A flagged request is answered, and marked."""
        guard = await serve(decide(Verdict.ADVERSARIAL, Action.FLAG, mode=Mode.FLAG))
        answer = await guard.call("ModelInfer", message)
        assert ModelInferResponse.FromString(answer.body).parameters["guard_verdict"].string_param == "adversarial"
        assert answer.trailing["guard-verdict"] == "adversarial"
        assert len(upstream.inferred()) == 1

    async def test_shadow_is_invisible(
        self, serve: Serve, upstream: RecordingUpstream, decide: Decide, message: bytes
    ) -> None:
        """In shadow mode the client gets the upstream's bytes and metadata, and nothing of Guard."""
        upstream.trailing_metadata = (("x-upstream", "1"),)
        guard = await serve(decide(Verdict.ADVERSARIAL, Action.FORWARD, mode=Mode.SHADOW))
        answer = await guard.call("ModelInfer", message)
        assert answer.body == upstream.body
        assert answer.trailing == {"x-upstream": "1"}
        assert not any("guard" in key for key in answer.initial)

    async def test_what_is_screened(self, serve: Serve, message: bytes) -> None:
        """The screener gets the request's tensors, and the client's deadline in seconds, or None."""
        guard = await serve()
        await guard.call("ModelInfer", message)
        await guard.call("ModelInfer", message, timeout=300)
        (request, no_deadline_s), (_, deadline_s) = guard.screener.asked
        assert no_deadline_s is None
        assert 200 < deadline_s < 305  # gRPC rounds up on each hop
        assert (request.model_name, request.request_id, request.inputs[0].shape) == ("digits", "7", (8, 1))
        assert request.inputs[0].raw == bytes(range(8))

    async def test_metadata_sent_on(self, serve: Serve, upstream: RecordingUpstream, message: bytes) -> None:
        """Trace context and binary metadata reach the upstream; what a client may not claim does not."""
        guard = await serve()
        metadata = (
            ("traceparent", "00-ab-cd-01"),
            ("x-key-bin", b"\x00\xff"),
            ("authorization", "Bearer x"),
            ("guard-verdict", "clean"),
            ("guard_id", "forged"),
            ("triton-grpc-protocol-x", "1"),
            ("proxy-authorization", "secret"),
        )
        await guard.call("ModelInfer", message, metadata=metadata)
        sent = upstream.inferred()[0].metadata
        agent = sent.pop("user-agent")
        assert str(agent).startswith("grpc-python")
        assert sent == {"traceparent": "00-ab-cd-01", "x-key-bin": b"\x00\xff", "authorization": "Bearer x"}

    async def test_large_metadata(self, serve: Serve, upstream: RecordingUpstream, message: bytes) -> None:
        """Metadata that could cost the other calls of the connection is refused; a little less is carried."""
        guard = await serve()
        answer = await guard.call("ModelInfer", message, metadata=(("x", "v" * 7400),))
        assert answer.code is grpc.StatusCode.INVALID_ARGUMENT
        assert "bytes of metadata" in answer.message
        assert not upstream.inferred()
        answer = await guard.call("ModelInfer", message, metadata=(("x", "v" * 7000),))
        assert answer.code is grpc.StatusCode.OK

    async def test_upstream_error_is_untouched(self, serve: Serve, upstream: RecordingUpstream, message: bytes) -> None:
        """An upstream's status, message and metadata, rich details included, pass back as they were."""
        upstream.failure = (grpc.StatusCode.UNAVAILABLE, "model 'digits' is not ready: größer")
        upstream.initial_metadata = (("x-initial", "1"),)
        upstream.trailing_metadata = (("grpc-status-details-bin", b"\x08\x0e"), ("x-trailing", "2"), ("guard-id", "?"))
        answer = await (await serve()).call("ModelInfer", message)
        assert (answer.code, answer.message) == upstream.failure
        assert answer.initial == {"x-initial": "1"}
        assert answer.trailing == {
            "grpc-status-details-bin": b"\x08\x0e",
            "x-trailing": "2",
            "guard-verdict": "clean",
            "guard-id": "d-1",
        }

    async def test_unavailable_without_trailers_is_untouched(
        self, serve: Serve, upstream: RecordingUpstream, message: bytes
    ) -> None:
        """UNAVAILABLE that a connected upstream answers is not taken for an upstream that is down."""
        upstream.failure = (grpc.StatusCode.UNAVAILABLE, "no instance of the model")
        answer = await (await serve()).call("ModelInfer", message)
        assert (answer.code, answer.message) == upstream.failure

    async def test_upstream_down(self, serve: Serve, free_address: str, message: bytes) -> None:
        """An upstream that isn't there is UNAVAILABLE, with its address and what to check."""
        guard = await serve(address=free_address)
        answer = await guard.call("ModelInfer", message)
        assert answer.code is grpc.StatusCode.UNAVAILABLE
        assert free_address in answer.message
        assert "check that it is running" in answer.message
        assert guard.metrics.refused == ["upstream_unavailable"]
        assert guard.metrics.upstream[0]["code"] == "UNAVAILABLE"

    async def test_upstream_lost_during_a_call(self, serve: Serve, upstream: RecordingUpstream, message: bytes) -> None:
        """An upstream that goes away during a call is reported like one that isn't there."""
        upstream.release.clear()
        guard = await serve()
        call = guard.start_call("ModelInfer", message)
        pending = asyncio.ensure_future(call.code())
        await upstream.started.wait()
        await upstream.stop()
        assert await pending is grpc.StatusCode.UNAVAILABLE
        assert "can't reach the upstream" in await call.details()

    async def test_upstream_that_comes_later(
        self, serve: Serve, upstream: RecordingUpstream, free_address: str, message: bytes
    ) -> None:
        """Guard starts without its upstream, and works as soon as that is there."""
        await upstream.stop()
        guard = await serve(address=free_address)
        assert (await guard.call("ModelInfer", message)).code is grpc.StatusCode.UNAVAILABLE
        await upstream.start(free_address)
        while (await guard.call("ModelInfer", message)).code is not grpc.StatusCode.OK:
            pass  # until gRPC tries to connect again
        assert upstream.inferred()


class TestRefusing:
    """Requests that don't reach the upstream."""

    async def test_batch_with_one_bad_item(
        self, serve: Serve, upstream: RecordingUpstream, decide: Decide, message: bytes
    ) -> None:
        """A batch of 8 with one adversarial item is rejected, naming the item, and never reaches the upstream."""
        guard = await serve(decide(Verdict.ADVERSARIAL, Action.REJECT, items=EIGHT))
        answer = await guard.call("ModelInfer", message)
        assert answer.code is grpc.StatusCode.PERMISSION_DENIED
        assert answer.message == (
            "rejected by guard: adversarial input at item 3 of 8 [guard_verdict=adversarial guard_id=d-1 guard_items=3]"
        )
        assert answer.trailing == {"guard-verdict": "adversarial", "guard-id": "d-1", "guard-items": "3"}
        assert upstream.received == []
        assert "0.123456" not in str(answer)

    @pytest.mark.parametrize(
        ("outcome", "code", "says"),
        [
            (NonFiniteInput("NaN at item 1 of 2"), grpc.StatusCode.INVALID_ARGUMENT, "NaN at item 1 of 2"),
            (MalformedRequest("wrong dtype"), grpc.StatusCode.INVALID_ARGUMENT, "wrong dtype"),
            (ModelNotListed("no policy for 'x'"), grpc.StatusCode.PERMISSION_DENIED, "no policy for 'x'"),
            (BackendError("path /secret"), grpc.StatusCode.INTERNAL, "guard failed to handle the request"),
            (ZeroDivisionError("path /secret"), grpc.StatusCode.INTERNAL, "guard failed to handle the request"),
        ],
    )
    async def test_errors(
        self,
        serve: Serve,
        message: bytes,
        outcome: Exception,
        code: grpc.StatusCode,
        says: str,
    ) -> None:
        """Each error becomes its status; one that isn't meant for callers says nothing of its cause."""
        guard = await serve(outcome)
        answer = await guard.call("ModelInfer", message)
        assert answer.code is code
        assert says in answer.message
        assert "/secret" not in answer.message
        assert guard.metrics.upstream == []
        assert guard.metrics.refused == [getattr(outcome, "code", "internal")]
        assert (guard.metrics.finished[0]["decision"], guard.metrics.finished[0]["model"]) == (None, "digits")

    async def test_malformed(self, serve: Serve, upstream: RecordingUpstream) -> None:
        """Bytes that aren't a request are refused before anybody screens them."""
        guard = await serve()
        answer = await guard.call("ModelInfer", b"\x3a\xff")
        assert answer.code is grpc.StatusCode.INVALID_ARGUMENT
        assert "truncated" in answer.message
        assert guard.screener.asked == []
        assert upstream.received == []
