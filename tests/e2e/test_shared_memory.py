"""tritonclient's way of shared memory through Guard, on one host, where the policy lets Guard copy it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_client
from tritonclient.utils import shared_memory

from guard.config import Mode, ModelPolicy, SharedMemory
from tests.e2e.peer import Peer, Refused, outcome
from tests.support import digits
from tests.support.sidecars import serving, settings
from tests.support.triton import Triton

OUT_BYTES = 8 * 10 * 4


def elsewhere(peer: Peer) -> Any:
    """Name a region that nobody registered."""
    tensor = triton_client.InferInput("input", [1, 1, 8, 8], "FP32")
    tensor.set_shared_memory("a", 256)
    return peer.client.infer("digits", [tensor])


@contextmanager
def region(client: triton_client.InferenceServerClient, name: str, byte_size: int) -> Iterator[Any]:
    """A shared memory object, registered under its name; both gone at the end."""
    key = f"/guard-test-{uuid.uuid4().hex}"
    handle = shared_memory.create_shared_memory_region(name, key, byte_size, create_only=True)
    try:
        client.register_system_shared_memory(name, key, byte_size)
        yield handle
    finally:
        client.unregister_system_shared_memory(name)
        shared_memory.destroy_shared_memory_region(handle)


@pytest.fixture(scope="module")
def copying(triton: Triton, profile: Path, digits_onnx: Path) -> Iterator[Peer]:
    """A client of a Guard that copies shared memory."""
    policy = ModelPolicy(
        profile=profile, model=digits_onnx, mode=Mode.FLAG, false_positive_rate=0.05, screening_budget_s=30.0
    )
    chosen = settings(triton.address, {"digits": policy}, shared_memory=SharedMemory.COPY)
    with serving(chosen) as sidecar, Peer(f"127.0.0.1:{sidecar.grpc_port}") as peer:
        yield peer


def test_as_the_stock_example(copying: Peer, direct: Peer) -> None:
    """Tidy up, register, put the tensor there, infer, and read the output there: as with a server itself."""
    client, x = copying.client, digits.load_data().test[0][:8]
    client.unregister_system_shared_memory()
    client.unregister_cuda_shared_memory()
    wanted = direct.client.infer("digits", [in_message(x)]).as_numpy("logits")
    with region(client, "in", x.nbytes) as inputs, region(client, "out", OUT_BYTES) as outputs:
        shared_memory.set_shared_memory_region(inputs, [x])
        assert set(client.get_system_shared_memory_status().regions) == {"in", "out"}
        tensor = triton_client.InferInput("input", list(x.shape), "FP32")
        tensor.set_shared_memory("in", x.nbytes)
        output = triton_client.InferRequestedOutput("logits")
        output.set_shared_memory("out", OUT_BYTES)
        answer = client.infer("digits", [tensor], outputs=[output])
        found = answer.get_output("logits")
        got = shared_memory.get_contents_as_numpy(outputs, np.float32, list(found.shape)).copy()
        assert answer.get_response().parameters["guard_verdict"].string_param in {"clean", "adversarial"}
        plain = client.infer("digits", [tensor]).as_numpy("logits")
    np.testing.assert_array_equal(got, wanted)
    np.testing.assert_array_equal(plain, wanted)
    assert not client.get_system_shared_memory_status().regions


def test_what_is_there_is_screened(copying: Peer, adversarial: np.ndarray) -> None:
    """An attack in shared memory is found as one in the message is, and nothing of it is left at the server."""
    x = np.ascontiguousarray(adversarial[:1])
    with region(copying.client, "in", x.nbytes) as inputs:
        shared_memory.set_shared_memory_region(inputs, [x])
        tensor = triton_client.InferInput("input", list(x.shape), "FP32")
        tensor.set_shared_memory("in", x.nbytes)
        answer = copying.client.infer("digits", [tensor]).get_response()
        told = copying.verdict(x)
    assert answer.parameters["guard_verdict"].string_param == told == "adversarial"


@pytest.mark.parametrize(
    ("ask", "code", "says"),
    [
        (
            lambda peer: peer.client.register_system_shared_memory("a", "/nothing", 8),
            "INVALID_ARGUMENT",
            "region 'a' can't be opened by guard",
        ),
        (
            lambda peer: peer.client.register_cuda_shared_memory("a", b"AAAA", 0, 8),
            "PERMISSION_DENIED",
            "guard does not let CudaSharedMemoryRegister through",
        ),
        (lambda peer: peer.client.get_system_shared_memory_status("a"), "INVALID_ARGUMENT", "registered as 'a'"),
        (elsewhere, "INVALID_ARGUMENT", "region 'a', not registered"),
    ],
)
def test_refused(copying: Peer, ask: Any, code: str, says: str) -> None:
    """Regions that aren't there, or are a GPU's, are refused by Guard."""
    refused = outcome(ask, copying)
    assert isinstance(refused, Refused)
    assert (refused.code, says in refused.message) == (code, True), refused


def in_message(x: np.ndarray) -> triton_client.InferInput:
    """A tensor as it is sent without shared memory."""
    tensor = triton_client.InferInput("input", list(x.shape), "FP32")
    tensor.set_data_from_numpy(x)
    return tensor
