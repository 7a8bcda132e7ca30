"""What the embedded server refuses, and that it survives it."""

from __future__ import annotations

import asyncio
import re
import threading
from pathlib import Path

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from onnx import TensorProto, helper, save
from tritonclient.grpc import service_pb2, service_pb2_grpc

from guard.embedded import EmbeddedServer
from guard.embedded.model import ServedModel
from guard.errors import BackendError, ConfigError
from guard.pb import grpc_service_pb2 as v2
from tests.embedded.parts import request, tensor, write_model

ZEROS = bytes(256)
MALFORMED = {
    "wrong name": (request(name="image", raw=(ZEROS,)), "unexpected inference input 'image' for model 'digits'"),
    "wrong data type": (
        request(datatype="INT32", raw=(ZEROS,)),
        "inference input 'input' data-type is 'INT32', but model 'digits' expects 'FP32'",
    ),
    "unknown data type": (request(datatype="FP33", raw=(ZEROS,)), "data-type is 'FP33', but model 'digits' expects"),
    "wrong shape": (
        request(shape=(1, 64), raw=(ZEROS,)),
        "unexpected shape for input 'input' for model 'digits'. Expected [-1,1,8,8], got [1,64]",
    ),
    "negative dimension": (request(shape=(-1, 1, 8, 8), raw=(ZEROS,)), "Expected [-1,1,8,8], got [-1,1,8,8]"),
    "too few bytes": (
        request(shape=(2, 1, 8, 8), raw=(ZEROS,)),
        "input byte size mismatch for input 'input'. Expected 512, got 256",
    ),
    "huge shape": (request(shape=(2**62, 1, 8, 8), raw=(ZEROS,)), f"Expected {2**62 * 256}, got 256"),
    "no contents": (request(), "unable to find data for input tensor 'input'"),
    "surplus raw contents": (request(raw=(ZEROS, ZEROS)), "expected 1 raw_input_contents, got 2"),
    "no inputs": (service_pb2.ModelInferRequest(model_name="digits"), "missing required input(s) ['input']"),
    "one input of two": (request("sum", "b", shape=(1, 2), raw=[bytes(8)]), "missing required input(s) ['a']"),
    "typed FP16": (request("echo_FP16", "x", "FP16", (1,)), "unable to find data for input tensor 'x'"),
    "string without length": (request("echo_BYTES", "x", "BYTES", (1,), raw=(b"ab",)), "incomplete string length"),
    "string cut short": (request("echo_BYTES", "x", "BYTES", (1,), raw=(b"\4\0\0\0abc",)), "incomplete string data"),
    "string of no text": (
        request("echo_BYTES", "x", "BYTES", (1,), raw=(b"\1\0\0\0\xff",)),
        "bytes that are not UTF-8",
    ),
    "string missing": (
        request("echo_BYTES", "x", "BYTES", (1,), raw=(b"",)),
        "input element count mismatch for input 'x'. Expected 1, got 0",
    ),
}


@pytest.mark.parametrize(("malformed", "message"), MALFORMED.values(), ids=MALFORMED)
def test_malformed(
    stub: service_pb2_grpc.GRPCInferenceServiceStub, malformed: service_pb2.ModelInferRequest, message: str
) -> None:
    """A request that doesn't fit the model is INVALID_ARGUMENT, worded as Triton words it."""
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(malformed)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert message in caught.value.details()


def test_parts_that_disagree(stub: service_pb2_grpc.GRPCInferenceServiceStub) -> None:
    """Typed contents in the wrong field, beside raw ones or too few, and inputs sent twice, are INVALID_ARGUMENT."""
    wrong_field, both, few, twice = request(), request(raw=(ZEROS,)), request(), request(raw=(ZEROS, ZEROS))
    wrong_field.inputs[0].contents.int_contents.extend([1] * 64)
    both.inputs[0].contents.fp32_contents.extend([1] * 64)
    few.inputs[0].contents.fp32_contents.extend([1] * 63)
    twice.inputs.append(twice.inputs[0])
    half = request("echo_FP16", "x", "FP16", (1,))
    half.inputs[0].contents.fp32_contents.append(1)
    for malformed, message in (
        (wrong_field, "unexpected explicit tensor data for input tensor 'input'"),
        (both, "contents field must not be specified when using raw_input_contents"),
        (few, "input element count mismatch for input 'input'. Expected 64, got 63"),
        (twice, "input 'input' already exists in request"),
        (half, "input 'x' is FP16, which must be sent as raw_input_contents"),
    ):
        with pytest.raises(grpc.RpcError, match=re.escape(message)) as caught:
            stub.ModelInfer(malformed)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_unknown_model_output_and_method(
    client: triton.InferenceServerClient, stub: service_pb2_grpc.GRPCInferenceServiceStub
) -> None:
    """What isn't there is NOT_FOUND, an output that isn't INVALID_ARGUMENT, a method that isn't UNIMPLEMENTED."""
    image = [tensor("input", "FP32", np.zeros((1, 1, 8, 8), np.float32))]
    unknown = r"\[StatusCode.NOT_FOUND\] Request for unknown model: 'nobody' is not found"
    for ask in (client.get_model_metadata, client.get_model_config, lambda name: client.infer(name, image)):
        with pytest.raises(triton.InferenceServerException, match=unknown):
            ask("nobody")
    with pytest.raises(triton.InferenceServerException, match=r"NOT_FOUND.*'digits' version 2 is not found"):
        client.infer("digits", image, model_version="2")
    with pytest.raises(triton.InferenceServerException, match=r"INVALID_ARGUMENT.*model 'nobody' is not available"):
        client.get_inference_statistics("nobody")
    with pytest.raises(triton.InferenceServerException, match=r"INVALID_ARGUMENT.*unexpected inference output 'nope'"):
        client.infer("digits", image, outputs=[triton.InferRequestedOutput("nope")])
    with pytest.raises(triton.InferenceServerException, match=r"UNIMPLEMENTED"):
        client.load_model("digits")
    with pytest.raises(grpc.RpcError, match=r"UNIMPLEMENTED"):
        list(stub.ModelStreamInfer(iter([service_pb2.ModelInferRequest()])))


def test_statistics_count(client: triton.InferenceServerClient) -> None:
    """Successes, failures, items and times of a model are counted, and a failure inside it is INTERNAL."""

    def ask(a: int, b: int) -> None:
        client.infer("fallible", [tensor(name, "FP32", np.ones(n, np.float32)) for name, n in (("a", a), ("b", b))])

    ask(3, 3)
    ask(2, 1)
    with pytest.raises(triton.InferenceServerException, match=r"\[StatusCode.INTERNAL\] onnx runtime error: "):
        ask(2, 3)
    (stats,) = client.get_inference_statistics("fallible").model_stats
    counted = stats.inference_stats
    assert (stats.name, stats.version, stats.inference_count, stats.execution_count) == ("fallible", "1", 5, 2)
    assert (counted.success.count, counted.fail.count) == (2, 1)
    steps_ns = [getattr(counted, step).ns for step in ("queue", "compute_input", "compute_infer", "compute_output")]
    assert min(steps_ns) > 0
    assert sum(steps_ns) <= counted.success.ns
    assert counted.fail.ns > 0
    assert stats.last_inference > 0
    everything = client.get_inference_statistics().model_stats
    assert {"digits", "fallible"} <= {model.name for model in everything}


def test_model_file_missing(tmp_path: Path) -> None:
    """A model file that isn't there is told as one that can't be loaded; the message names it."""
    with pytest.raises(BackendError, match=r"there is no model file .*gone\.onnx: name an ONNX file"):
        EmbeddedServer({"gone": tmp_path / "gone.onnx"})


def test_model_file_broken(tmp_path: Path) -> None:
    """A file that is no ONNX model is refused when the server is made; the message says what to check."""
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not protobuf")
    with pytest.raises(BackendError, match=r"can't load .*broken\.onnx.*export it again"):
        EmbeddedServer({"broken": broken})


def test_model_that_the_protocol_cannot_carry(tmp_path: Path) -> None:
    """A model whose output is no tensor is refused, and the message names the output and what would do."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])
    y = helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, ["n"])
    graph = helper.make_graph([helper.make_node("SequenceConstruct", ["x"], ["y"])], "sequence", [x], [y])
    path = tmp_path / "sequence.onnx"
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)
    with pytest.raises(ConfigError, match=r"'y' is seq\(tensor\(float\)\).*export the model with tensors of BOOL"):
        EmbeddedServer({"sequence": path})


async def test_address_in_use(tmp_path: Path) -> None:
    """An address that another server holds is a mistake in the settings."""
    model = write_model(tmp_path / "echo", "Identity", {"x": ["n"]})
    first = EmbeddedServer({"echo": model})
    port = await first.start()
    try:
        with pytest.raises(ConfigError, match=rf"can't listen on 127\.0\.0\.1:{port}: the address is in use"):
            await EmbeddedServer({"echo": model}, address=f"127.0.0.1:{port}").start()
    finally:
        await first.stop(0.0)


async def test_message_too_large(tmp_path: Path) -> None:
    """A message over the limit is RESOURCE_EXHAUSTED, and one under it is answered, larger than gRPC's own limit."""
    server = EmbeddedServer(
        {"echo": write_model(tmp_path / "echo", "Identity", {"x": ["n"]})}, max_message_bytes=6 * 2**20
    )
    options = [("grpc.max_receive_message_length", -1)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{await server.start()}", options=options) as channel:
        infer = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=service_pb2.ModelInferRequest.SerializeToString,
            response_deserializer=service_pb2.ModelInferResponse.FromString,
        )
        try:
            fits = await infer(request("echo", "x", shape=(5 * 2**18,), raw=(bytes(5 * 2**20),)))
            assert len(fits.raw_output_contents[0]) == 5 * 2**20
            with pytest.raises(grpc.RpcError, match=r"RESOURCE_EXHAUSTED"):
                await infer(request("echo", "x", shape=(7 * 2**18,), raw=(bytes(7 * 2**20),)))
        finally:
            await server.stop(0.0)


async def test_event_loop_stays_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a model runs, the server answers other calls; stopping lets the running one finish within its grace."""
    loop, entered, release = asyncio.get_running_loop(), asyncio.Event(), threading.Event()
    infer = ServedModel.infer

    def slow(model: ServedModel, asked: v2.ModelInferRequest, queued_ns: int) -> object:
        loop.call_soon_threadsafe(entered.set)
        assert release.wait(60)
        return infer(model, asked, queued_ns)

    monkeypatch.setattr(ServedModel, "infer", slow)
    server = EmbeddedServer({"echo": write_model(tmp_path / "echo", "Identity", {"x": ["n"]})})
    async with triton_aio.InferenceServerClient(f"127.0.0.1:{await server.start()}") as client:
        try:
            running = asyncio.create_task(client.infer("echo", [tensor("x", "FP32", np.ones(1, np.float32))]))
            await asyncio.wait_for(entered.wait(), 60)
            assert await client.is_server_live(client_timeout=60)
        finally:
            stopping = asyncio.create_task(server.stop(60.0))
            release.set()
            await asyncio.wait_for(stopping, 90)
        assert (await running).as_numpy("y").tolist() == [1]


async def test_cancelled_requests_do_no_harm(tmp_path: Path) -> None:
    """A storm of requests whose deadlines expire leaves a server that answers: Guard passes cancellations on to it."""
    server = EmbeddedServer({"echo": write_model(tmp_path / "echo", "Identity", {"x": ["n"]})})
    inputs = [tensor("x", "FP32", np.ones(2**18, np.float32))]
    async with triton_aio.InferenceServerClient(f"127.0.0.1:{await server.start()}") as client:
        try:
            storm = [client.infer("echo", inputs, client_timeout=0.001 * step) for step in range(1, 33)]
            ends = await asyncio.gather(*storm, return_exceptions=True)
            expired = [end for end in ends if isinstance(end, triton.InferenceServerException)]
            assert {error.status() for error in expired} == {"StatusCode.DEADLINE_EXCEEDED"}
            assert (await client.infer("echo", inputs)).as_numpy("y").sum() == 2**18
        finally:
            await server.stop(1.0)
