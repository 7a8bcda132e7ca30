"""An embedded server on a real socket, and clients of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2_grpc

from guard.embedded import EmbeddedServer
from tests.embedded.parts import ECHOES, write_model
from tests.support.loop import LoopThread


@pytest.fixture(scope="module")
def address(digits_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of the digits, an echo of each data type, a sum and a model that can fail."""
    folder = tmp_path_factory.mktemp("models")
    models = {f"echo_{v2}": write_model(folder / v2, "Identity", {"x": ["n"]}, onnx) for v2, onnx, _ in ECHOES}
    models["sum"] = write_model(folder / "sum", "Add", {"a": ["n", 2], "b": ["n", 2]})
    models["fallible"] = write_model(folder / "fallible", "Add", {"a": ["n"], "b": ["m"]})
    models["digits"] = digits_onnx
    with LoopThread() as loop:
        server = EmbeddedServer(models)
        yield f"127.0.0.1:{loop.run(server.start())}"
        loop.run(server.stop(1.0))


@pytest.fixture
def client(address: str) -> Iterator[triton.InferenceServerClient]:
    """A stock client."""
    with triton.InferenceServerClient(address) as stock:
        yield stock


@pytest.fixture
def stub(address: str) -> Iterator[service_pb2_grpc.GRPCInferenceServiceStub]:
    """The raw protocol, for what the stock client can't say."""
    with grpc.insecure_channel(address) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)
