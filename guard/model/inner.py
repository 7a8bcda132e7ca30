"""What a model computes on the way to its answer: inner tensors of an ONNX graph, pooled into features of an input.

The graph is cut open in its own operator set, with operators that have been the same since the ninth, so that any
model that ONNX Runtime can load can be looked into. The weights stay where they are; nothing is converted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from guard import datatypes
from guard.errors import BackendError
from guard.model.onnx import as_ort_value, open_session
from guard.values import Float32Array, ModelInfo

FEATURES = "guard_features"
ANSWER = "guard_answer"
_MOST_TENSORS = 10
_MOST_VALUES = 4096
_ACTIVATIONS = frozenset(
    {"Relu", "LeakyRelu", "PRelu", "Elu", "Selu", "Celu", "Gelu", "Clip", "HardSwish", "Mish", "Softplus", "Tanh"}
)
_OTHERS = frozenset({"Conv", "Gemm", "MatMul", "Add", "Mul", "BatchNormalization", "LayerNormalization"})
_FLOATS = frozenset({np.dtype(np.float16), np.dtype(np.float32), np.dtype(np.float64)})
_FEW = 3
_VECTOR, _TOKENS, _IMAGE = 2, 3, 4


def looked_into(model: bytes, info: ModelInfo, samples: Float32Array) -> bytes:
    """The model with one output, `guard_features` (batch, features): its inner activations and logits.

    Images are pooled over their positions, by mean and by maximum, and tokens by both too. Of a deep model, ten
    activations are taken, evenly spread. `samples` (n, *shape) are run once, to learn the shapes.

    Raises:
        BackendError: the graph has nothing that could be looked at, or can't be cut open.
    """
    try:
        graph = onnx.load_from_string(model)
        inner = _chosen(graph, info, samples)
        # The logits in descending order too: how sure the model is, whatever the class.
        order = helper.make_node("TopK", ["guard_logits", "guard_classes"], ["guard_sorted", "guard_order"], axis=1)
        nodes = [*_flat(info.output_name, _VECTOR, "logits"), order]
        names = ["guard_logits", "guard_sorted"]
        for place, (name, rank) in enumerate(inner):
            made = list(_flat(name, rank, str(place)))
            nodes += made
            names += [node.output[0] for node in made if node.op_type == "Flatten" or rank == _VECTOR]
        nodes.append(helper.make_node("Concat", names, [FEATURES], axis=1))
        graph.graph.node.extend(nodes)
        graph.graph.initializer.append(numpy_helper.from_array(np.array([info.classes], np.int64), "guard_classes"))
        return _with_output(graph, FEATURES)
    except BackendError:
        raise
    except Exception as exc:  # the onnx package raises whatever it likes on graphs it does not know
        raise BackendError(f"model {info.name!r} can't be looked into: {exc}") from exc


Layers: TypeAlias = Sequence[tuple[Float32Array, Float32Array]]
"""Linear layers, with ReLU between them: weights (outputs, inputs) and bias (outputs,)."""


def with_heads(
    model: bytes, heads: Sequence[Layers], mean: Float32Array, deviation: Float32Array, farthest: float
) -> bytes:
    """A model that was looked into, continued to `guard_answer`: the mean of what its heads say.

    They are shown the features (features,) less their mean, in deviations, none beyond `farthest`.
    """
    graph = onnx.load_from_string(model)

    def constant(array: Float32Array | float, name: str) -> str:
        graph.graph.initializer.append(numpy_helper.from_array(np.asarray(array, np.float32), name))
        return name

    def node(kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        graph.graph.node.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    centred = node("Sub", [FEATURES, constant(mean, "guard_mean")], "guard_centred")
    scaled = node("Div", [centred, constant(deviation, "guard_deviation")], "guard_scaled")
    below = node("Min", [scaled, constant(farthest, "guard_farthest")], "guard_below")
    shown = node("Max", [below, constant(-farthest, "guard_nearest")], "guard_shown")
    answers = []
    for number, layers in enumerate(heads):
        value = shown
        for place, (weights, bias) in enumerate(layers):
            label = f"{number}_{place}"
            if place:
                value = node("Relu", [value], f"guard_relu_{label}")
            inputs = [value, constant(weights, f"guard_weights_{label}"), constant(bias, f"guard_bias_{label}")]
            value = node("Gemm", inputs, f"guard_linear_{label}", transB=1)
        answers.append(value)
    node("Mean", answers, ANSWER)
    return _with_output(graph, ANSWER)


def features_of(model: bytes, info: ModelInfo, x: Float32Array, *, batch: int = 64) -> Float32Array:
    """What a model that was looked into says of inputs (n, *shape): (n, features)."""
    session = open_session(model, ("CPUExecutionProvider",))
    parts = [_run(session, info, [FEATURES], x[at : at + batch])[0] for at in range(0, len(x), batch)]
    found: Float32Array = np.concatenate(parts).astype(np.float32)
    return found


def _run(session: Any, info: ModelInfo, names: Sequence[str], x: Float32Array) -> list[Any]:
    stored = datatypes.to_array(info.datatype, x)
    values = session.run_with_ort_values(list(names), {info.input_name: as_ort_value(info.datatype, stored)})
    readable = (value.is_tensor() and value.data_type() != "tensor(bfloat16)" for value in values)
    return [value.numpy() if can else None for value, can in zip(values, readable, strict=True)]


def _chosen(graph: onnx.ModelProto, info: ModelInfo, samples: Float32Array) -> list[tuple[str, int]]:
    """Names and ranks of inner tensors to look at, from the input to the output."""
    makers = [
        node for node in graph.graph.node if node.domain in {"", "ai.onnx"} and info.output_name not in node.output
    ]
    found = [node.output[0] for node in makers if node.op_type in _ACTIVATIONS]
    if len(found) < _FEW:
        found = [node.output[0] for node in makers if node.op_type in _ACTIVATIONS | _OTHERS]
    if not found:
        raise BackendError(f"model {info.name!r} has no inner activations that could be looked at")
    open_graph = onnx.ModelProto()
    open_graph.CopyFrom(graph)
    open_graph.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in found)
    session = open_session(open_graph.SerializeToString(), ("CPUExecutionProvider",))
    values = _run(session, info, found, samples[:2])
    usable = [(name, value.ndim) for name, value in zip(found, values, strict=True) if _usable(value, len(samples[:2]))]
    if not usable:
        raise BackendError(f"model {info.name!r} has no inner activations that could be looked at")
    if len(usable) <= _MOST_TENSORS:
        return usable
    places = np.linspace(0, len(usable) - 1, _MOST_TENSORS).round().astype(int)
    return [usable[place] for place in places.tolist()]


def _usable(value: Any, batch: int) -> bool:
    if not isinstance(value, np.ndarray) or value.dtype not in _FLOATS or value.shape[:1] != (batch,):
        return False
    pooled = {_VECTOR: value.shape[-1], _TOKENS: value.shape[-1], _IMAGE: value.shape[1] if value.ndim > 1 else 0}
    return 0 < int(pooled.get(value.ndim, 0)) <= _MOST_VALUES


def _flat(name: str, rank: int, label: str) -> Iterator[onnx.NodeProto]:
    """Nodes that make float32 rows of a tensor: the one node there is of a vector, the `Flatten`s of others."""
    yield helper.make_node("Cast", [name], [f"guard_{label}"], to=TensorProto.FLOAT)
    if rank == _VECTOR:
        return
    name = f"guard_{label}"
    if rank == _TOKENS:  # (batch, tokens, width): the width is what channels are
        yield helper.make_node("Transpose", [name], [f"guard_turned_{label}"], perm=[0, 2, 1])
        name = f"guard_turned_{label}"
    for pool in ("Average", "Max"):
        pooled = f"guard_{pool}_{label}"
        yield helper.make_node(f"Global{pool}Pool", [name], [pooled])
        yield helper.make_node("Flatten", [pooled], [f"{pooled}_flat"], axis=1)


def _with_output(graph: onnx.ModelProto, name: str) -> bytes:
    del graph.graph.output[:]
    graph.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    content: bytes = graph.SerializeToString()
    return content
