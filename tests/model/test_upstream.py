"""The guarded server itself as the replica, against a real server."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import grpc
import numpy as np
import pytest
import torch
import tritonclient.grpc as triton

from guard.datatypes import float32_to_bf16
from guard.embedded import EmbeddedServer
from guard.errors import BackendError, BackendTimeout, UpstreamUnavailable
from guard.model.onnx import OnnxBackend, inspect_onnx
from guard.model.upstream import UpstreamBackend, inspect_upstream
from guard.pb import grpc_service_pb2 as v2
from guard.values import ModelInfo, OutputKind
from tests.model.parts import INFO, INPUTS, WEIGHTS, integers
from tests.support.digits import DigitsData
from tests.support.links import link
from tests.support.loop import LoopThread
from tests.support.ports import free_address
from tests.support.waiting import PATIENCE_S

X = torch.from_numpy(INPUTS)


@pytest.fixture
def info(address: str) -> ModelInfo:
    """What the server says of the linear model."""
    return inspect_upstream(link(address), name="plain", bounds=(0.0, 1.0), dims=(4,))


def test_digits_agree(address: str, served: dict[str, Path], digits_data: DigitsData) -> None:
    """The served classifier answers as the same file does in this process, and both are described alike."""
    images = torch.from_numpy(digits_data.test[0][:40])
    inspected = inspect_upstream(link(address), name="digits", bounds=(0.0, 1.0), dims=(1, 8, 8))
    own = inspect_onnx(served["digits"], name="digits", bounds=(0.0, 1.0), dims=(1, 8, 8))
    assert replace(inspected, fingerprint=own.fingerprint) == own
    with closing(UpstreamBackend(link(address), inspected)) as upstream:
        here = OnnxBackend(served["digits"].read_bytes(), own)
        torch.testing.assert_close(upstream.logits(images), here.logits(images), atol=1e-4, rtol=0)


@pytest.mark.parametrize(("batch", "max_batch", "requests"), [(32, None, 3), (32, 8, 9), (100, None, 1)])
def test_batches_are_split(address: str, info: ModelInfo, batch: int, max_batch: int | None, requests: int) -> None:
    """Copies travel in batches of what the server takes at once, and come back in order."""
    x = torch.rand(70, 4, generator=torch.Generator().manual_seed(0))
    with (
        closing(UpstreamBackend(link(address), replace(info, max_batch=max_batch), batch=batch)) as upstream,
        triton.InferenceServerClient(address) as client,
    ):
        before = client.get_inference_statistics("plain").model_stats[0].execution_count
        np.testing.assert_allclose(upstream.logits(x).numpy(), x.numpy() @ WEIGHTS, rtol=1e-4, atol=1e-5)
        assert client.get_inference_statistics("plain").model_stats[0].execution_count - before == requests


def test_model_without_batches(address: str) -> None:
    """A model that takes single inputs is recognised, and asked one at a time."""
    single = inspect_upstream(link(address), name="unbatched", bounds=(0.0, 1.0), dims=(4,))
    assert (single.batched, single.max_batch, single.classes) == (False, None, 3)
    with closing(UpstreamBackend(link(address), single)) as upstream:
        assert upstream.preferred_batch == 1
        np.testing.assert_allclose(upstream.logits(X).numpy(), INPUTS @ WEIGHTS, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("datatype", ["FP16", "FP64", "UINT8", "INT32"])
def test_other_input_types(address: str, datatype: str) -> None:
    """Copies are sent in the type that the model takes, integers rounded and clipped, not wrapped."""
    info = inspect_upstream(link(address), name=datatype, bounds=(0.0, 255.0), dims=(4,))
    x = np.array([[-3.2, 0.6, 254.7, 300.0], [1.5, 2.5, 3.4999, 127.2]], np.float32)
    dtype = {"FP16": "f2", "FP64": "f8", "UINT8": "u1", "INT32": "i4"}[datatype]
    sent = x.astype(dtype) if datatype.startswith("FP") else integers(np.dtype(dtype), x)
    assert info.datatype == datatype
    with closing(UpstreamBackend(link(address), info)) as upstream:
        np.testing.assert_allclose(upstream.logits(torch.from_numpy(x)), sent.astype(np.float32) @ WEIGHTS, rtol=1e-5)


def test_probabilities_become_logits(address: str) -> None:
    """A served model that answers probabilities is read as logits whose softmax they are."""
    info = replace(INFO, name="softmax", output_name="probabilities", output_kind=OutputKind.PROBABILITIES)
    with closing(UpstreamBackend(link(address), info)) as upstream:
        expected = torch.softmax(X @ torch.from_numpy(WEIGHTS), dim=1)
        torch.testing.assert_close(upstream.logits(X).softmax(dim=1), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"name": "none"}, "answered ModelInfer with NOT_FOUND: Request for unknown model: 'none'"),
        ({"input_name": "y"}, "with INVALID_ARGUMENT: unexpected inference input 'y'"),
        ({"output_name": "y"}, "with INVALID_ARGUMENT: unexpected inference output 'y'"),
        ({"classes": 10}, r"answered shape \(5, 3\) .*expected \(5, 10\): is the profile of this model"),
        ({"name": "total", "output_name": "total"}, "does not hold 3 numbers for each of 5 inputs: is the profile"),
    ],
)
def test_another_model_is_an_error(address: str, info: ModelInfo, changes: dict, says: str) -> None:
    """A server that has another model fails with a BackendError that repeats what it said, never with an answer."""
    with closing(UpstreamBackend(link(address), replace(info, **changes))) as upstream:
        with pytest.raises(BackendError, match=says) as caught:
            upstream.logits(X)
        assert not isinstance(caught.value, BackendTimeout)


def test_readiness(address: str, info: ModelInfo) -> None:
    """Readiness is the model's, and asking costs the server no evaluation."""
    with closing(UpstreamBackend(link(address), info)) as upstream:
        upstream.check_ready()
    with (
        closing(UpstreamBackend(link(address), replace(info, name="none"))) as upstream,
        pytest.raises(BackendError, match="model 'none' is not ready"),
    ):
        upstream.check_ready()


def test_nobody_listens(dead_address: str) -> None:
    """A server that can't be reached is UpstreamUnavailable, whatever was asked, and the error says what to check."""
    says = f"no inference server answers at {dead_address} .*: is it running, and is this its gRPC port"
    with closing(UpstreamBackend(link(dead_address), INFO)) as upstream:
        for ask in (lambda: upstream.logits(X), upstream.check_ready):
            with pytest.raises(UpstreamUnavailable, match=f"(?s){says}"):
                ask()
    with pytest.raises(UpstreamUnavailable, match=f"(?s){says}"):
        inspect_upstream(link(dead_address), name="plain", bounds=(0.0, 1.0), dims=(4,))


def test_what_became_of_each(address: str, info: ModelInfo, dead_address: str, silent_address: str) -> None:
    """It is told of each inference once, when it is over: whether it was answered, refused, or may have run."""
    told: list[str] = []
    for server, model, expected in (
        (address, info, ["answered"] * 2),
        (address, replace(info, name="none"), ["failed"]),
        (address, replace(info, input_name="other"), ["failed"]),
        (dead_address, info, ["unknown"]),
        (silent_address, info, ["unknown"]),
    ):
        with closing(UpstreamBackend(link(server), model, timeout_s=0.5, batch=1)) as upstream:
            upstream.count(told.append)
            with contextlib.suppress(BackendError, UpstreamUnavailable):
                upstream.logits(X[:2])
        assert told == expected
        told.clear()


def test_silence_times_out(silent_address: str) -> None:
    """A server that takes the connection and says nothing is waited for no longer than the time-out."""
    with closing(UpstreamBackend(link(silent_address), INFO, timeout_s=0.2)) as upstream:
        for method, ask in (("ModelInfer", lambda: upstream.logits(X)), ("ModelReady", upstream.check_ready)):
            with pytest.raises(BackendTimeout, match=rf"did not answer {method} within 0\.2 s"):
                ask()


def test_returning_server_is_found(served: dict[str, Path]) -> None:
    """A server that went away and comes back is found again, without a new replica."""
    info = replace(INFO, name="plain")
    with LoopThread() as loop:
        address = free_address()
        server = EmbeddedServer({"plain": served["plain"]}, address=address)
        loop.run(server.start())
        with closing(UpstreamBackend(link(address), info)) as upstream:
            upstream.check_ready()
            loop.run(server.stop(0))
            with pytest.raises(UpstreamUnavailable):
                upstream.check_ready()
            again = EmbeddedServer({"plain": served["plain"]}, address=address)
            loop.run(again.start())
            try:
                assert is_found(upstream, within_s=PATIENCE_S)
            finally:
                loop.run(again.stop(0))


def is_found(upstream: UpstreamBackend, *, within_s: float) -> bool:
    """Whether the server answers in time; gRPC says nothing when a connection is back, so it is asked repeatedly."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        with contextlib.suppress(UpstreamUnavailable):
            upstream.check_ready()
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize(
    ("name", "dims", "says"),
    [
        ("none", (4,), "answered ModelMetadata with NOT_FOUND"),
        ("two_inputs", (4,), r"has inputs \['x', 'unused'\]: Guard screens models with one input"),
        ("BOOL", (4,), "takes BOOL: Guard screens numeric inputs"),
        ("plain", (5,), r"takes shape \[-1, 4\], and the samples have shape \[5\]"),
        ("plain", (1, 4, 1), r"takes shape \[-1, 4\], and the samples have shape \[1, 4, 1\]"),
        ("labels", (4,), r"no output of shape \(batch, classes\): Guard screens classifiers"),
        ("static", (4,), r"takes shape \[2, 4\], and the samples have shape \[4\]"),
    ],
)
def test_inspect_refuses(address: str, name: str, dims: tuple[int, ...], says: str) -> None:
    """A served model that Guard can't screen is refused before calibration, saying what it takes."""
    with pytest.raises(BackendError, match=says):
        inspect_upstream(link(address), name=name, bounds=(0.0, 1.0), dims=dims)


class Told(grpc.GenericRpcHandler):
    """A v2 server that gives one answer to everything, for what the real one never says."""

    def __init__(self) -> None:
        self.answer = v2.ModelInferResponse()

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:  # noqa: ARG002 - one handler for every method
        """Answer any method."""
        return grpc.unary_unary_rpc_method_handler(lambda _request, _context: self.answer.SerializeToString())


@pytest.fixture
def told() -> Iterator[tuple[str, Told]]:
    """Its address, and what it answers."""
    handler = Told()
    with ThreadPoolExecutor(1) as threads:
        server = grpc.server(threads, handlers=(handler,))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield f"127.0.0.1:{port}", handler
        server.stop(None).wait()


LOGITS = np.array([[1.5, -2.0, 0.25], [0.0, 8.0, -0.5]], np.float32)


@pytest.mark.parametrize("form", ["FP32", "FP16", "FP64", "BF16", "FP32 typed", "FP64 typed"])
def test_forms_of_answer(told: tuple[str, Told], form: str) -> None:
    """Logits are read from every form that the protocol lets a server answer in, beside outputs nobody asked for."""
    address, server = told
    datatype, _, typed = form.partition(" ")
    other = server.answer.outputs.add(name="other", datatype="INT64", shape=[1])
    output = server.answer.outputs.add(name="logits", datatype=datatype, shape=[2, 3])
    if typed:
        other.contents.int64_contents.append(1)
        values = output.contents.fp64_contents if datatype == "FP64" else output.contents.fp32_contents
        values.extend(LOGITS.reshape(-1).tolist())
    else:
        dtype = {"FP32": "<f4", "FP16": "<f2", "FP64": "<f8"}.get(datatype)
        raw = float32_to_bf16(LOGITS) if dtype is None else LOGITS.astype(dtype)
        server.answer.raw_output_contents.extend([b"\0" * 8, raw.tobytes()])
    with closing(UpstreamBackend(link(address), INFO)) as upstream:
        np.testing.assert_array_equal(upstream.logits(X[:2]).numpy(), LOGITS)


@pytest.mark.parametrize(
    ("name", "datatype", "raw", "says"),
    [
        ("other", "FP32", LOGITS.tobytes(), "answer lacks output 'logits'"),
        ("logits", "FP32", LOGITS.tobytes()[:-1], "does not hold 3 numbers for each of 2 inputs"),
        ("logits", "FP32", LOGITS.tobytes()[:-4], "does not hold 3 numbers for each of 2 inputs"),
        ("logits", "BYTES", LOGITS.tobytes(), "does not hold 3 numbers for each of 2 inputs"),
        ("logits", "FP32", b"", "is the profile of this model"),
    ],
)
def test_broken_answers(told: tuple[str, Told], name: str, datatype: str, raw: bytes, says: str) -> None:
    """An answer that does not hold the logits is a BackendError, whatever is wrong with it."""
    address, server = told
    server.answer.outputs.add(name=name, datatype=datatype, shape=[2, 3])
    server.answer.raw_output_contents.append(raw)
    with closing(UpstreamBackend(link(address), INFO)) as upstream, pytest.raises(BackendError, match=says):
        upstream.logits(X[:2])
