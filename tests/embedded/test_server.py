"""The embedded server, asked by the stock tritonclient."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import tritonclient.grpc as triton
from google.protobuf.json_format import MessageToDict
from tritonclient.grpc import service_pb2_grpc

import guard
from tests.embedded.parts import ECHOES, request, tensor
from tests.support.digits import DigitsData

TYPED_FIELDS = {
    "BOOL": "bool_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


def test_health_and_description(client: triton.InferenceServerClient) -> None:
    """The server is live and ready, and describes itself and its models as the protocol says."""
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("digits")
    assert client.is_model_ready("digits", "1")
    assert not client.is_model_ready("digits", "2")
    assert not client.is_model_ready("nobody")
    about = client.get_server_metadata()
    assert (about.name, about.version) == ("guard-embedded", guard.__version__)
    assert list(about.extensions) == ["binary_tensor_data", "model_configuration", "statistics"]
    index = client.get_model_repository_index().models
    assert {(entry.name, entry.version, entry.state) for entry in index} >= {("digits", "1", "READY")}
    assert len(index) == len(ECHOES) + 3


def test_metadata_and_configuration(client: triton.InferenceServerClient) -> None:
    """A dynamic dimension is -1 in metadata and configuration."""
    assert MessageToDict(client.get_model_metadata("digits")) == {
        "name": "digits",
        "versions": ["1"],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "input", "datatype": "FP32", "shape": ["-1", "1", "8", "8"]}],
        "outputs": [{"name": "logits", "datatype": "FP32", "shape": ["-1", "10"]}],
    }
    config = client.get_model_config("digits").config
    assert (config.name, config.backend, config.max_batch_size) == ("digits", "onnxruntime", 0)
    assert [(t.name, list(t.dims)) for t in config.input] == [("input", [-1, 1, 8, 8])]
    assert [(t.name, list(t.dims)) for t in config.output] == [("logits", [-1, 10])]
    assert MessageToDict(client.get_model_config("echo_BYTES"))["config"]["input"][0]["dataType"] == "TYPE_STRING"


@pytest.mark.parametrize("items", [1, 8, 0])
def test_inference_is_the_models(
    client: triton.InferenceServerClient, digits_onnx: Path, digits_data: DigitsData, items: int
) -> None:
    """The answer is what ONNX Runtime computes, for any batch; the id comes back."""
    images = digits_data.test[0][:items]
    result = client.infer("digits", [tensor("input", "FP32", images)], request_id="seven", model_version="1")
    session = onnxruntime.InferenceSession(digits_onnx)
    np.testing.assert_array_equal(result.as_numpy("logits"), session.run(None, {"input": images})[0])
    response = result.get_response()
    assert (response.id, response.model_name, response.model_version) == ("seven", "digits", "1")
    assert len(response.raw_output_contents) == 1


@pytest.mark.parametrize(("datatype", "onnx_type", "values"), ECHOES, ids=[echo[0] for echo in ECHOES])
def test_each_data_type(
    client: triton.InferenceServerClient,
    stub: service_pb2_grpc.GRPCInferenceServiceStub,
    datatype: str,
    onnx_type: int,
    values: np.ndarray,
) -> None:
    """Each data type goes through a model unchanged, raw and, where the protocol has a field for it, typed."""
    result = client.infer(f"echo_{datatype}", [tensor("x", datatype, values)])
    assert result.as_numpy("y").tolist() == values.tolist()
    if datatype in TYPED_FIELDS:
        typed = request(f"echo_{datatype}", "x", datatype, values.shape)
        getattr(typed.inputs[0].contents, TYPED_FIELDS[datatype]).extend(values.tolist())
        assert stub.ModelInfer(typed).raw_output_contents == result.get_response().raw_output_contents


def test_typed_value_too_large(stub: service_pb2_grpc.GRPCInferenceServiceStub) -> None:
    """Of a typed value that its data type can't hold the low bytes count, as in Triton."""
    typed = request("echo_INT8", "x", "INT8", (2,))
    typed.inputs[0].contents.int_contents.extend([257, -129])
    assert np.frombuffer(stub.ModelInfer(typed).raw_output_contents[0], np.int8).tolist() == [1, 127]


def test_two_inputs_in_any_order(client: triton.InferenceServerClient) -> None:
    """Inputs are told apart by name, and only requested outputs are answered."""
    ones, twos = np.full((3, 2), 1, np.float32), np.full((3, 2), 2, np.float32)
    result = client.infer(
        "sum",
        [tensor("b", "FP32", twos), tensor("a", "FP32", ones)],
        outputs=[triton.InferRequestedOutput("y")],
    )
    np.testing.assert_array_equal(result.as_numpy("y"), np.full((3, 2), 3))
