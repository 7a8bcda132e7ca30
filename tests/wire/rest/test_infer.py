"""Inference over HTTP: what the upstream gets, and what the client gets back."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from dataclasses import replace
from typing import Any

import grpc
import numpy as np
import pytest

from guard.errors import BackendError, NonFiniteInput, Overloaded
from guard.pb.grpc_service_pb2 import ModelInferRequest, ModelInferResponse, ModelMetadataResponse
from guard.values import Action, Course, Mode, UnscreenedReason, Verdict
from tests.wire.parts import Decide
from tests.wire.rest.client import connected
from tests.wire.rest.conftest import INFER, MethodicalUpstream, StartRest

EIGHT = (Verdict.CLEAN,) * 3 + (Verdict.ADVERSARIAL,) + (Verdict.CLEAN,) * 4
MARKS = {"guard_verdict": "clean", "guard_id": "d-1"}


@pytest.fixture
def message() -> ModelInferRequest:
    """What the upstream gets for `tensor`."""
    request = ModelInferRequest(model_name="digits", id="7", raw_input_contents=[bytes(range(8))])
    request.inputs.add(name="image", datatype="UINT8", shape=[8, 1])
    return request


@pytest.fixture
def binary() -> tuple[bytes, dict[str, str]]:
    """`tensor` in binary, asking for the same; and its header."""
    head = {"name": "image", "datatype": "UINT8", "shape": [8, 1], "parameters": {"binary_data_size": 8}}
    text = json.dumps({"id": "7", "inputs": [head], "parameters": {"binary_data_output": True}}).encode()
    return text + bytes(range(8)), {"Inference_Header_Content_Length": str(len(text))}


class TestForwarding:
    """Requests that policy lets through."""

    async def test_json(
        self, rest: StartRest, upstream: MethodicalUpstream, tensor: dict[str, Any], message: ModelInferRequest
    ) -> None:
        """JSON in, canonical gRPC on, JSON out: with the verdict in parameters and headers, and counted as HTTP."""
        guard = await rest()
        answer = await guard.infer(tensor)
        assert [ModelInferRequest.FromString(call.message) for call in upstream.inferred()] == [message]
        assert answer.json == {
            "id": "7",
            "model_name": "digits",
            "model_version": "1",
            "parameters": MARKS,
            "outputs": [{"name": "out", "datatype": "UINT8", "shape": [2], "data": [1, 2]}],
        }
        assert (answer.status, answer.headers["guard-verdict"], answer.headers["guard-id"]) == (200, "clean", "d-1")
        assert "date" in answer.headers
        (finished,) = guard.metrics.finished
        assert (finished["protocol"], finished["model"]) == ("http", "digits")

    async def test_flagged(self, rest: StartRest, decide: Decide, tensor: dict[str, Any]) -> None:
        """The answer to a flagged batch names its items, in parameters and headers."""
        decision = decide(Verdict.ADVERSARIAL, Action.FLAG, mode=Mode.FLAG, items=EIGHT)
        answer = await (await rest(replace(decision, approximate=True))).infer(tensor)
        marks = {"guard_verdict": "adversarial", "guard_id": "d-1", "guard_items": "3"}
        assert answer.json["parameters"] == marks | {"guard_approximate": True}
        assert (answer.headers["guard-items"], answer.headers["guard-approximate"]) == ("3", "true")

    async def test_binary(
        self,
        rest: StartRest,
        upstream: MethodicalUpstream,
        message: ModelInferRequest,
        binary: tuple[bytes, dict[str, str]],
    ) -> None:
        """The same in binary, both ways."""
        body, headers = binary
        answer = await (await rest()).infer(body, **headers)
        assert [ModelInferRequest.FromString(call.message) for call in upstream.inferred()] == [message]
        assert answer.json["outputs"][0]["parameters"] == {"binary_data_size": 2}
        assert answer.json["parameters"] == MARKS
        assert answer.body.endswith(b"}\1\2")

    async def test_a_bare_tensor(self, rest: StartRest, upstream: MethodicalUpstream) -> None:
        """A header length of 0 says that the body is the tensor of a model with one input."""
        metadata = ModelMetadataResponse(name="digits")
        metadata.inputs.add(name="image", datatype="UINT8", shape=[-1, 8])
        upstream.bodies["ModelMetadata"] = metadata.SerializeToString()
        answer = await (await rest()).infer(bytes(16), Inference_Header_Content_Length="0")
        assert answer.body.endswith(b"}\1\2")
        (sent,) = (ModelInferRequest.FromString(call.message) for call in upstream.inferred())
        assert (sent.inputs[0].name, list(sent.inputs[0].shape), sent.raw_input_contents) == (
            "image",
            [2, 8],
            [bytes(16)],
        )

    async def test_a_bare_tensor_for_an_unknown_model(self, rest: StartRest, upstream: MethodicalUpstream) -> None:
        """What the upstream says against it is passed on."""
        upstream.failure = (grpc.StatusCode.NOT_FOUND, "unknown model")
        answer = await (await rest()).infer(bytes(16), Inference_Header_Content_Length="0")
        assert answer.status == 400
        assert "does not say what model 'digits' takes (unknown model); send JSON [guard_id=" in answer.error

    async def test_version(self, rest: StartRest, upstream: MethodicalUpstream, tensor: dict[str, Any]) -> None:
        """The path names model and version."""
        await (await rest()).infer(tensor, "/v2/models/a%20b/versions/3/infer")
        sent = ModelInferRequest.FromString(upstream.inferred()[0].message)
        assert (sent.model_name, sent.model_version) == ("a b", "3")

    async def test_large_tensors(self, rest: StartRest, upstream: MethodicalUpstream) -> None:
        """Bodies of many pieces arrive whole, and so do answers, one after the other on one connection."""
        values = np.random.default_rng(0).integers(0, 256, 700_000, np.uint8).tobytes()
        response = ModelInferResponse(raw_output_contents=[values])
        response.outputs.add(name="out", datatype="UINT8", shape=[len(values)])
        upstream.body = response.SerializeToString()
        head = {
            "name": "image",
            "datatype": "UINT8",
            "shape": [700_000, 1],
            "parameters": {"binary_data_size": 700_000},
        }
        text = json.dumps({"inputs": [head], "parameters": {"binary_data_output": True}}).encode()
        guard = await rest()
        async with connected(guard.port) as connection:
            for _ in range(2):
                answer = await connection.ask(
                    "POST", INFER, text + values, Inference_Header_Content_Length=str(len(text))
                )
                assert answer.body.endswith(values)
        assert [ModelInferRequest.FromString(c.message).raw_input_contents for c in upstream.inferred()] == [
            [values]
        ] * 2

    async def test_in_chunks(
        self, rest: StartRest, upstream: MethodicalUpstream, tensor: dict[str, Any], message: ModelInferRequest
    ) -> None:
        """A body may come in chunks, without saying how long it will be."""
        guard = await rest()
        async with connected(guard.port) as connection:
            connection.begin("POST", INFER, None)
            text = json.dumps(tensor).encode()
            for piece in (text[:10], text[10:]):
                connection.writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                await asyncio.sleep(0.01)
            connection.writer.write(b"0\r\n\r\n")
            connection._state.send_failed()  # it doesn't know of what was sent past it
            reply = await connection.reader.readuntil(b"}]}")
        assert reply.startswith(b"HTTP/1.1 200 ")
        assert ModelInferRequest.FromString(upstream.inferred()[0].message) == message

    @pytest.mark.parametrize(
        ("coding", "squeeze", "expand"),
        [("gzip", gzip.compress, gzip.decompress), ("deflate", zlib.compress, zlib.decompress)],
    )
    async def test_compression(
        self, rest: StartRest, tensor: dict[str, Any], coding: str, squeeze: Any, expand: Any
    ) -> None:
        """Requests may be compressed, and answers are if the client asks for it."""
        body = squeeze(json.dumps(tensor).encode())
        answer = await (await rest()).infer(body, Content_Encoding=coding, Accept_Encoding=coding)
        assert answer.headers["content-encoding"] == coding
        assert json.loads(expand(answer.body))["outputs"][0]["data"] == [1, 2]

    async def test_shadow_is_invisible(self, rest: StartRest, decide: Decide, tensor: dict[str, Any]) -> None:
        """In shadow mode nothing of Guard is in the answer."""
        guard = await rest(decide(Verdict.ADVERSARIAL, Action.FORWARD, mode=Mode.SHADOW), course=Course.BEHIND)
        answer = await guard.infer(tensor)
        assert "parameters" not in answer.json
        assert not any("guard" in name for name in answer.headers)

    async def test_what_is_screened(self, rest: StartRest, tensor: dict[str, Any]) -> None:
        """The screener gets the tensors, no deadline, and whose they are by the name that gRPC has for them."""
        guard = await rest()
        await guard.infer(tensor)
        ((request, deadline_s),) = guard.screener.asked
        assert (request.model_name, request.request_id, request.inputs[0].shape) == ("digits", "7", (8, 1))
        assert (request.inputs[0].raw, deadline_s) == (bytes(range(8)), None)
        assert guard.screener.clients == ["ipv4:127.0.0.1"]

    async def test_headers_sent_on(self, rest: StartRest, upstream: MethodicalUpstream, tensor: dict[str, Any]) -> None:
        """Trace context and binary metadata reach the upstream; what a client may not claim, or gRPC carry, not."""
        await (await rest()).infer(
            tensor,
            Traceparent="00-ab-cd-01",
            X_Key_bin="AP8",
            X_Broken_bin="?",
            Authorization="Bearer x",
            Guard_Verdict="clean",
            Triton_Grpc_Protocol_X="1",
            X_Latin="\xe9",
            Connection="keep-alive, x-mine",
            X_Mine="1",
            Content_Type="application/json",
            Accept="*/*",
            Grpc_Timeout="1S",
        )
        sent = upstream.inferred()[0].metadata
        assert str(sent.pop("user-agent")).startswith("grpc-python")
        assert sent == {"traceparent": "00-ab-cd-01", "x-key-bin": b"\x00\xff", "authorization": "Bearer x"}


class TestRefusing:
    """Requests that end in an error."""

    async def test_rejection(
        self, rest: StartRest, upstream: MethodicalUpstream, decide: Decide, tensor: dict[str, Any]
    ) -> None:
        """A batch with one adversarial item is 403, names the item, and never reaches the upstream."""
        guard = await rest(decide(Verdict.ADVERSARIAL, Action.REJECT, items=EIGHT))
        answer = await guard.infer(tensor)
        assert answer.status == 403
        assert answer.error == (
            "rejected by guard: adversarial input at item 3 of 8 [guard_verdict=adversarial guard_id=d-1 guard_items=3]"
        )
        assert (answer.headers["guard-verdict"], answer.headers["guard-id"]) == ("adversarial", "d-1")
        assert upstream.received == []

    async def test_unscreened(self, rest: StartRest, decide: Decide, tensor: dict[str, Any]) -> None:
        """Guard that couldn't look is 503, and 429 where it was overloaded."""
        for reason, status in ((UnscreenedReason.FAULT, 503), (UnscreenedReason.OVERLOAD, 429)):
            guard = await rest(decide(Verdict.UNSCREENED, Action.REJECT, reason=reason))
            assert (await guard.infer(tensor)).status == status

    @pytest.mark.parametrize(
        ("outcome", "status", "says"),
        [
            (NonFiniteInput("NaN at item 1 of 2"), 400, "NaN at item 1 of 2 [guard_id="),
            (Overloaded("retry"), 429, "retry"),
            (BackendError("path /secret"), 500, "guard failed to handle the request"),
        ],
    )
    async def test_errors(
        self, rest: StartRest, tensor: dict[str, Any], outcome: Exception, status: int, says: str
    ) -> None:
        """Each error becomes its status; one that isn't meant for callers says nothing of its cause."""
        answer = await (await rest(outcome)).infer(tensor)
        assert answer.status == status
        assert says in answer.error
        assert "/secret" not in answer.error
        assert "guard-id" in answer.headers

    @pytest.mark.parametrize(
        ("body", "headers", "status", "code"),
        [
            (b"", {}, 400, "malformed_request"),
            (b"{}", {"Inference_Header_Content_Length": "3"}, 400, "malformed_request"),
            (b"{}", {"Inference_Header_Content_Length": "-1"}, 400, "malformed_request"),
            (b"{}", {"Inference_Header_Content_Length": "\xb2"}, 400, "malformed_request"),
            (b"{}", {"Inference_Header_Content_Length": "9" * 5000}, 400, "malformed_request"),
            (b"{}", {"Content_Encoding": "br"}, 501, "unimplemented"),
            (b"{}", {"Content_Encoding": "gzip"}, 400, "malformed_request"),
            (b'{"inputs": [' + b"0," * (1 << 20) + b"0]}", {}, 413, "message_too_large"),
        ],
    )
    async def test_bodies(
        self,
        rest: StartRest,
        upstream: MethodicalUpstream,
        *,
        body: bytes,
        headers: dict[str, str],
        status: int,
        code: str,
    ) -> None:
        """A body that can't be read never gets to the screener, and is counted."""
        guard = await rest(max_message_bytes=1 << 22)
        answer = await guard.infer(body, **headers)
        assert (answer.status, guard.metrics.refused) == (status, [code])
        assert "guard_id=" in answer.error
        assert (guard.screener.asked, upstream.received) == ([], [])

    async def test_contradicting_headers(self, rest: StartRest) -> None:
        """Two lengths of the JSON could be read by two servers in two ways."""
        guard = await rest()
        answer = await guard.infer(b"{}", Inference_Header_Content_Length="2", inference_header_content_length="1")
        assert answer.status == 400
        assert "more than one header inference-header-content-length" in answer.error

    @pytest.mark.parametrize(
        ("code", "status"),
        [
            (grpc.StatusCode.INVALID_ARGUMENT, 400),
            (grpc.StatusCode.NOT_FOUND, 404),
            (grpc.StatusCode.UNAVAILABLE, 503),
            (grpc.StatusCode.UNIMPLEMENTED, 501),
            (grpc.StatusCode.INTERNAL, 500),
            (grpc.StatusCode.DEADLINE_EXCEEDED, 504),
        ],
    )
    async def test_upstream_errors(
        self, rest: StartRest, upstream: MethodicalUpstream, tensor: dict[str, Any], code: grpc.StatusCode, status: int
    ) -> None:
        """An error of the upstream has the status that Triton's HTTP server gives it, and its own words."""
        upstream.failure = (code, "größer")
        answer = await (await rest()).infer(tensor)
        assert (answer.status, answer.error) == (status, "größer")

    async def test_upstream_down(self, rest: StartRest, free_address: str, tensor: dict[str, Any]) -> None:
        """An upstream that isn't there is 503, with its address."""
        answer = await (await rest(address=free_address)).infer(tensor)
        assert (answer.status, free_address in answer.error) == (503, True)

    async def test_a_broken_answer(self, rest: StartRest, upstream: MethodicalUpstream, tensor: dict[str, Any]) -> None:
        """An answer that nobody can read is 500, logged, and says nothing."""
        upstream.body = b"\x2a\x01\xff"
        guard = await rest()
        answer = await guard.infer(tensor)
        assert (answer.status, guard.metrics.refused) == (500, ["internal"])
        assert answer.error.startswith("guard failed to handle the request; its log has the cause [guard_id=")

    async def test_json_that_does_not_exist(
        self, rest: StartRest, upstream: MethodicalUpstream, tensor: dict[str, Any]
    ) -> None:
        """FP16 wanted as JSON is 400, as in Triton."""
        response = ModelInferResponse(raw_output_contents=[b"\0\0"])
        response.outputs.add(name="out", datatype="FP16", shape=[1])
        upstream.body = response.SerializeToString()
        answer = await (await rest()).infer(tensor)
        assert (answer.status, "ask for it in binary" in answer.error) == (400, True)


class TestScreenOnly:
    """Requests that ask for a verdict and no inference."""

    async def test_the_verdict_comes_back_alone(
        self, rest: StartRest, upstream: MethodicalUpstream, decide: Decide, tensor: dict[str, Any]
    ) -> None:
        """A verdict that rejects is an answer too, in parameters and headers; nothing reaches the server."""
        guard = await rest(decide(Verdict.ADVERSARIAL, Action.REJECT, items=EIGHT))
        answer = await guard.infer(tensor, **{"Guard-Screen-Only": "true"})
        assert answer.json == {
            "id": "7",
            "model_name": "digits",
            "model_version": "",
            "parameters": {
                "guard_verdict": "adversarial",
                "guard_id": "d-1",
                "guard_items": "3",
                "guard_action": "reject",
                "guard_screen_only": True,
            },
            "outputs": [],
        }
        assert (answer.status, answer.headers["guard-verdict"], upstream.received) == (200, "adversarial", [])

    async def test_another_value(self, rest: StartRest, upstream: MethodicalUpstream, tensor: dict[str, Any]) -> None:
        """Whatever else the header says is refused."""
        answer = await (await rest()).infer(tensor, **{"Guard-Screen-Only": ""})
        assert (answer.status, upstream.received) == (400, [])
