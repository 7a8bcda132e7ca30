"""A real v2 server of the digits and of linear models in every form."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from onnx import TensorProto

from guard.embedded import EmbeddedServer
from tests.model.parts import linear_onnx
from tests.support.loop import LoopThread
from tests.support.ports import free_address

TYPES = {
    "FP16": TensorProto.FLOAT16,
    "FP64": TensorProto.DOUBLE,
    "UINT8": TensorProto.UINT8,
    "INT32": TensorProto.INT32,
    "BOOL": TensorProto.BOOL,
}
FORMS = ("plain", "unbatched", "static", "softmax", "total", "labels", "two_inputs")


@pytest.fixture(scope="session")
def served(digits_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The models that the server has: digits, one linear model a form, and one a data type."""
    folder = tmp_path_factory.mktemp("served")
    models = {form: linear_onnx(folder / form, form) for form in FORMS}
    models |= {name: linear_onnx(folder / name, onnx_type=onnx) for name, onnx in TYPES.items()}
    return models | {"digits": digits_onnx}


@pytest.fixture(scope="session")
def address(served: dict[str, Path]) -> Iterator[str]:
    """Where the server listens."""
    with LoopThread() as loop:
        server = EmbeddedServer(served)
        yield f"127.0.0.1:{loop.run(server.start())}"
        loop.run(server.stop(1.0))


@pytest.fixture
def silent_address() -> Iterator[str]:
    """Where connections are taken and nothing is ever said."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def dead_address() -> str:
    """An address on which nothing listens."""
    return free_address()
