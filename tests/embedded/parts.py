"""Small ONNX models and requests for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tritonclient.grpc as triton
from onnx import TensorProto, helper, save
from tritonclient.grpc import service_pb2

# v2 data type, ONNX type, values that an echo must give back
ECHOES = [
    ("BOOL", TensorProto.BOOL, np.array([True, False])),
    ("UINT8", TensorProto.UINT8, np.array([0, 255], np.uint8)),
    ("UINT16", TensorProto.UINT16, np.array([0, 65535], np.uint16)),
    ("UINT32", TensorProto.UINT32, np.array([0, 2**32 - 1], np.uint32)),
    ("UINT64", TensorProto.UINT64, np.array([1, 2**64 - 1], np.uint64)),
    ("INT8", TensorProto.INT8, np.array([-128, 127], np.int8)),
    ("INT16", TensorProto.INT16, np.array([-32768, 32767], np.int16)),
    ("INT32", TensorProto.INT32, np.array([-(2**31), 2**31 - 1], np.int32)),
    ("INT64", TensorProto.INT64, np.array([-(2**63), 2**63 - 1], np.int64)),
    ("FP16", TensorProto.FLOAT16, np.array([-1.5, 65504], np.float16)),
    ("FP32", TensorProto.FLOAT, np.array([-1.5, np.inf], np.float32)),
    ("FP64", TensorProto.DOUBLE, np.array([1e300, -0.1], np.float64)),
    ("BYTES", TensorProto.STRING, np.array([b"", "zwei \u00e9".encode()], np.object_)),
]


def write_model(path: Path, op: str, inputs: dict[str, list[int | str]], onnx_type: int = TensorProto.FLOAT) -> Path:
    """Save an ONNX model of one node; its output `y` has the first input's shape."""
    values = [helper.make_tensor_value_info(name, onnx_type, shape) for name, shape in inputs.items()]
    y = helper.make_tensor_value_info("y", onnx_type, next(iter(inputs.values())))
    graph = helper.make_graph([helper.make_node(op, list(inputs), ["y"])], "model", values, [y])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)
    return path


def tensor(name: str, datatype: str, values: np.ndarray) -> triton.InferInput:
    """An input of the stock client."""
    made = triton.InferInput(name, list(values.shape), datatype)
    made.set_data_from_numpy(values)
    return made


def request(
    model: str = "digits",
    name: str = "input",
    datatype: str = "FP32",
    shape: tuple[int, ...] = (1, 1, 8, 8),
    raw: tuple[bytes, ...] = (),
) -> service_pb2.ModelInferRequest:
    """A request with one input, its contents raw or to be filled in."""
    made = service_pb2.ModelInferRequest(model_name=model, raw_input_contents=raw)
    made.inputs.add(name=name, datatype=datatype, shape=shape)
    return made
