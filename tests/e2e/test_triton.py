"""The same unchanged tritonclient code against a real Triton, direct and through Guard."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_client
from google.protobuf.json_format import MessageToDict
from tritonclient.grpc import service_pb2

from tests.e2e.cases import Case
from tests.e2e.peer import Peer, Refused, answer, outcome, tensor
from tests.support.digits import DigitsData
from tests.support.triton import MAX_BATCH_SIZE
from tests.support.waiting import PATIENCE_S


def typed(peer: Peer, x: np.ndarray) -> dict[str, Any]:
    """Ask with typed contents, which the stock client never sends."""
    request = service_pb2.ModelInferRequest(model_name="digits")
    request.inputs.add(name="input", datatype="FP32", shape=x.shape).contents.fp32_contents.extend(x.ravel())
    return answer(peer.stub.ModelInfer(request))


def too_few_bytes(peer: Peer, x: np.ndarray) -> dict[str, Any]:
    """Ask with a shape that promises more than the contents hold."""
    request = service_pb2.ModelInferRequest(model_name="digits", raw_input_contents=[x[:1].tobytes()])
    request.inputs.add(name="input", datatype="FP32", shape=(2, 1, 8, 8))
    return answer(peer.stub.ModelInfer(request))


def statistics(peer: Peer, x: np.ndarray) -> tuple[str, str, int]:
    """What a batch of eight adds to the statistics of the model."""

    def counted() -> Any:
        return peer.client.get_inference_statistics("digits").model_stats[0]

    before = counted()
    peer.infer(tensor(x))
    deadline = time.monotonic() + PATIENCE_S
    while (after := counted()).inference_count == before.inference_count and time.monotonic() < deadline:
        pass  # Triton answers first and counts then
    return after.name, after.version, after.inference_count - before.inference_count


def stream(peer: Peer, x: np.ndarray) -> list[str]:
    """Ask one question over a stream."""
    request = service_pb2.ModelInferRequest(model_name="digits", raw_input_contents=[x[:1].tobytes()])
    request.inputs.add(name="input", datatype="FP32", shape=(1, 1, 8, 8))
    return [message.infer_response.model_name for message in peer.stub.ModelStreamInfer(iter([request]))]


def logits(items: int) -> Callable[[Any], bool]:
    """Whether an answer holds the logits of so many items."""
    return lambda got: got["outputs"] == [("logits", "FP32", (items, 10))] and len(got["contents"][0]) == items * 40


NOT_FOUND = Refused("NOT_FOUND", "Request for unknown model: 'nobody' is not found")
NOT_UNDER_GUARD = Refused("PERMISSION_DENIED", "model 'nobody' is not under guard")
METADATA = {
    "name": "digits",
    "versions": ["1"],
    "platform": "python",
    "inputs": [{"name": "input", "datatype": "FP32", "shape": ["-1", "1", "8", "8"]}],
    "outputs": [{"name": "logits", "datatype": "FP32", "shape": ["-1", "10"]}],
}
INDEX = {"models": [{"name": "digits", "version": "1", "state": "READY"}]}


def refused(message: str, code: str = "INVALID_ARGUMENT") -> Refused:
    """An error of a request that Triton or Guard finds fault with."""
    return Refused(code, message)


CASES = {
    "server live": Case(lambda p, _: p.client.is_server_live(), direct=True),
    "server ready": Case(lambda p, _: p.client.is_server_ready(), direct=True),
    "server metadata": Case(
        lambda p, _: MessageToDict(p.client.get_server_metadata()),
        lambda got: (got["name"], got["version"]) == ("triton", "2.51.0") and "binary_tensor_data" in got["extensions"],
    ),
    "model ready": Case(lambda p, _: p.client.is_model_ready("digits"), direct=True),
    "unknown model ready": Case(lambda p, _: p.client.is_model_ready("nobody"), direct=False),
    "model metadata": Case(lambda p, _: MessageToDict(p.client.get_model_metadata("digits")), METADATA),
    "unknown model metadata": Case(lambda p, _: p.client.get_model_metadata("nobody"), NOT_FOUND),
    "model config": Case(
        lambda p, _: MessageToDict(p.client.get_model_config("digits")),
        lambda got: (got["config"]["name"], got["config"]["maxBatchSize"]) == ("digits", MAX_BATCH_SIZE),
    ),
    "statistics": Case(statistics, ("digits", "1", 8)),
    "unknown model statistics": Case(
        lambda p, _: p.client.get_inference_statistics("nobody"), refused("requested model 'nobody' is not available")
    ),
    "repository index": Case(lambda p, _: MessageToDict(p.client.get_model_repository_index()), INDEX),
    "infer 1": Case(lambda p, x: answer(p.infer(tensor(x[:1]))), logits(1)),
    "infer 8": Case(lambda p, x: answer(p.infer(tensor(x))), logits(8)),
    "infer with typed contents": Case(typed, logits(8)),
    "request id": Case(lambda p, x: answer(p.infer(tensor(x), request_id="a-7")), lambda got: got["id"] == "a-7"),
    "model version": Case(
        lambda p, x: answer(p.infer(tensor(x), model_version="1")), lambda got: got["model"] == ("digits", "1")
    ),
    "unknown version": Case(
        lambda p, x: p.infer(tensor(x), model_version="9"),
        refused("Request for unknown model: 'digits' version 9 is not found", "NOT_FOUND"),
        refused("version '9' of model 'digits' is not under guard: name digits@9 in", "PERMISSION_DENIED"),
    ),
    "requested output": Case(
        lambda p, x: answer(p.infer(tensor(x), outputs=[triton_client.InferRequestedOutput("logits")])), logits(8)
    ),
    "classification": Case(
        lambda p, x: answer(p.infer(tensor(x), outputs=[triton_client.InferRequestedOutput("logits", class_count=2)])),
        lambda got: got["outputs"] == [("logits", "BYTES", (8, 2))],
    ),
    "unknown output": Case(
        lambda p, x: p.infer(tensor(x), outputs=[triton_client.InferRequestedOutput("nope")]),
        refused("unexpected inference output 'nope' for model 'digits'"),
    ),
    "unknown model": Case(lambda p, x: p.client.infer("nobody", [tensor(x)]), NOT_FOUND, NOT_UNDER_GUARD),
    "wrong data type": Case(
        lambda p, x: p.infer(tensor(x.astype(np.float64), datatype="FP64")),
        refused("inference input 'input' data-type is 'FP64', but model 'digits' expects 'FP32'"),
        refused("input 'input' of model 'digits' must be FP32, the request says FP64"),
    ),
    "wrong shape": Case(
        lambda p, x: p.infer(tensor(x.reshape(8, 64))),
        refused("unexpected shape for input 'input' for model 'digits'. Expected [-1,1,8,8], got [8,64]"),
        refused("input 'input' of model 'digits' must have shape [n, 1, 8, 8], the request says [8, 64]"),
    ),
    "wrong input name": Case(
        lambda p, x: p.infer(tensor(x, name="image")),
        refused("unexpected inference input 'image' for model 'digits'"),
        refused("model 'digits' takes exactly one input, named 'input'; the request has: 'image'"),
    ),
    "extra input": Case(
        lambda p, x: p.infer(tensor(x), tensor(x, name="extra")),
        refused("expected 1 inputs but got 2 inputs for model 'digits'"),
        refused("model 'digits' takes exactly one input, named 'input'; the request has: 'input', 'extra'"),
    ),
    "too few bytes": Case(
        too_few_bytes,
        refused("input byte size mismatch for input 'input' for model 'digits'. Expected 512, got 256"),
        refused("input 'input' of shape [2, 1, 8, 8] takes 512 bytes as FP32, its raw contents have 256"),
    ),
    "empty batch": Case(
        lambda p, x: p.infer(tensor(x[:0])),
        refused("input byte size mismatch for input 'input' for model 'digits'"),
        refused("input 'input' has a batch of 0 items; send at least one"),
    ),
    "NaN": Case(
        lambda p, x: answer(p.infer(tensor(np.where(np.arange(8)[:, None, None, None] == 3, np.nan, x).astype("f4")))),
        logits(8),
        refused("NaN, infinity or a value beyond float32 at item 3 of 8"),
    ),
    "stream": Case(stream, ["digits"]),
    "model control": Case(
        lambda p, _: p.client.load_model("digits"),
        refused("explicit model load / unload is not allowed", "UNAVAILABLE"),
        refused("guard does not let RepositoryModelLoad through", "PERMISSION_DENIED"),
    ),
    "shared memory": Case(
        lambda p, _: MessageToDict(p.client.get_system_shared_memory_status()),
        {},
        refused("guard does not let SystemSharedMemoryStatus through", "PERMISSION_DENIED"),
    ),
    "trace settings": Case(
        lambda p, _: "settings" in MessageToDict(p.client.get_trace_settings()),
        direct=True,
        guarded=refused("guard does not let TraceSetting through", "PERMISSION_DENIED"),
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_direct(direct: Peer, digits_data: DigitsData, case: Case) -> None:
    """The real Triton does what the table says, so that the table is worth comparing with."""
    case.check_direct(outcome(case.ask, direct, digits_data.test[0][:8]))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_through_guard(direct: Peer, guarded: Peer, benign: np.ndarray, case: Case) -> None:
    """Through Guard the outcome is the same, errors included, but where the table says that Guard answers first."""
    case.check_guarded(outcome(case.ask, guarded, benign), lambda: outcome(case.ask, direct, benign))
