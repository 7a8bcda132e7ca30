"""Linear ONNX classifiers in every form that a replica meets, and what they must answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper, save

from guard.values import Float32Array, ModelInfo, OutputKind

WEIGHTS = np.array([[0.5, -1.0, 2.0], [0.25, 1.5, -0.5], [-2.0, 0.125, 1.0], [1.0, -0.25, 0.5]], np.float32)
INFO = ModelInfo("linear", "x", "logits", "FP32", (4,), 3, (0.0, 1.0), OutputKind.LOGITS, "ab")
INPUTS = np.random.default_rng(0).random((5, 4), np.float32)


def linear_onnx(path: Path, form: str = "plain", onnx_type: int = TensorProto.FLOAT) -> Path:
    """Save `x @ WEIGHTS` as an ONNX model.

    Forms: plain; unbatched ([4] to [3]); static (batches of 2 only); softmax (with an output `probabilities`);
    sklearn (labels and a list of maps come before the scores); total (the batch is summed away);
    labels (no scores); two_inputs.
    """
    shape: list[int | str] = {"unbatched": [4], "static": [2, 4]}.get(form, ["n", 4])
    rows = shape[:-1]
    inputs = [helper.make_tensor_value_info("x", onnx_type, shape)]
    nodes = [
        helper.make_node("Cast", ["x"], ["as_float"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["as_float", "weights"], ["logits"]),
    ]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [*rows, 3])]
    if form == "softmax":
        nodes.append(helper.make_node("Softmax", ["logits"], ["probabilities"], axis=-1))
        outputs.append(helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [*rows, 3]))
    elif form == "sklearn":
        nodes += _sklearn_nodes()
        maps = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
        outputs = [
            helper.make_tensor_value_info("ranking", TensorProto.INT64, [*rows, 3]),
            helper.make_value_info("maps", helper.make_sequence_type_proto(maps)),
            *outputs,
        ]
    elif form == "total":
        nodes.append(helper.make_node("ReduceSum", ["logits", "axes"], ["total"], keepdims=0))
        outputs = [helper.make_tensor_value_info("total", TensorProto.FLOAT, [3])]
    elif form == "labels":
        nodes.append(helper.make_node("ArgMax", ["logits"], ["label"], axis=-1, keepdims=0))
        outputs = [helper.make_tensor_value_info("label", TensorProto.INT64, rows)]
    elif form == "two_inputs":
        inputs.append(helper.make_tensor_value_info("unused", onnx_type, shape))
    save(_model(nodes, inputs, outputs), path)
    return path


def integers(dtype: np.dtype, values: Float32Array) -> Float32Array:
    """What an integer input holds of `values`: rounded, and clipped to its range."""
    limits = np.iinfo(dtype)
    return np.clip(np.rint(values), limits.min, limits.max).astype(np.float32)


def _sklearn_nodes() -> list[NodeProto]:
    """As scikit-learn's converter writes them: indices, and a list of maps from class to score."""
    return [
        helper.make_node("TopK", ["logits", "three"], ["ranked", "ranking"], axis=-1),
        helper.make_node("ZipMap", ["logits"], ["maps"], domain="ai.onnx.ml", classlabels_int64s=[0, 1, 2]),
    ]


def _model(nodes: list[NodeProto], inputs: list, outputs: list) -> ModelProto:
    constants = {"weights": WEIGHTS, "three": np.array([3], np.int64), "axes": np.array([0], np.int64)}
    used = {name for node in nodes for name in node.input}
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items() if name in used]
    graph = helper.make_graph(nodes, "linear", inputs, outputs, initializers)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)
