"""How a model's answer moves when its input is reconstructed: one ONNX graph of a denoiser and the model.

After the second detector of MagNet (Meng and Chen, CCS 2017). The model's own graph runs on inputs and reconstructions
in one batch. All operators have been the same since the ninth operator set, so any model that ONNX Runtime can load
will do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from guard import datatypes
from guard.errors import BackendError
from guard.layout import of_model
from guard.model.inner import ANSWER
from guard.values import Float32Array, Layout, ModelInfo, OutputKind

_BOTH = "guard_both"
_LEAST = 1e-3
"""Distances below it are alike: there rounding says more than the model."""
_TRANSPOSED = 3


@dataclass(frozen=True, slots=True)
class Denoiser:
    """Convolutions over images in [0, 1], (n, channels, height, width): what they find is added to the image.

    Weights and bias of each: one of stride 1, one of stride 2, one of stride 1, one transposed of stride 2 with a
    kernel of 4, and one of stride 1; kernels are of 3 otherwise. ReLU between them.
    """

    layers: Sequence[tuple[Float32Array, Float32Array]]


def reconstructed(model: bytes, info: ModelInfo, denoiser: Denoiser) -> bytes:
    """The model as a detector: (batch, *shape) to (batch, 2), zeros and the score.

    The score is the logarithm of the L1 distance between the softmax of the input and of its reconstruction.

    Raises:
        BackendError: the graph can't be continued.
    """
    try:
        graph = onnx.load_from_string(model)
        builder = _Builder(graph)
        before = list(graph.graph.node)
        del graph.graph.node[:]
        builder.both(info, denoiser)
        for node in before:
            _reads(node, info.input_name, _BOTH)
        graph.graph.node.extend(before)
        builder.score(info)
        del graph.graph.value_info[:]  # shapes by names that batches of another size don't have
        del graph.graph.output[:]
        graph.graph.output.append(helper.make_tensor_value_info(ANSWER, TensorProto.FLOAT, None))
        content: bytes = graph.SerializeToString()
    except BackendError:
        raise
    except Exception as exc:  # the onnx package raises whatever it likes on graphs it does not know
        raise BackendError(f"model {info.name!r} can't be run on reconstructions: {exc}") from exc
    return content


class _Builder:
    """Adds nodes to a graph, with names of Guard's own."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._graph = model.graph
        self._number = 0

    def both(self, info: ModelInfo, denoiser: Denoiser) -> None:
        """Inputs, and behind them their reconstructions."""
        low, high = info.bounds
        units = self._node("Cast", info.input_name, to=TensorProto.FLOAT)
        scaled = self._node("Div", self._node("Sub", units, low), high - low)
        made = self._turned_back(self._denoised(self._channels_first(scaled, info), denoiser), info)
        own = self._node("Add", self._node("Mul", made, high - low), low)
        if not info.datatype.startswith(("FP", "BF")):
            own = self._node("Floor", self._node("Add", own, 0.5))
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(datatypes.WIRE_DTYPES[info.datatype]))
        kind = TensorProto.BFLOAT16 if info.datatype == datatypes.BF16 else kind
        self._node("Concat", info.input_name, self._node("Cast", own, to=kind), out=_BOTH, axis=0)

    def score(self, info: ModelInfo) -> None:
        """The distance between the answers for the two halves."""
        answers = self._node("Cast", info.output_name, to=TensorProto.FLOAT)
        if info.output_kind is OutputKind.LOGITS:
            answers = self._node("Softmax", answers, axis=1)
        halves = self._node("Reshape", answers, np.array([2, -1, info.classes], np.int64))
        own, other = (self._node("Gather", halves, np.array(half, np.int64), axis=0) for half in (0, 1))
        apart = self._node("Abs", self._node("Sub", own, other))
        summed = self._node("MatMul", apart, np.ones((info.classes, 1), np.float32))
        score = self._node("Log", self._node("Add", summed, _LEAST))
        self._node("Concat", self._node("Mul", score, 0.0), score, out=ANSWER, axis=1)

    def _denoised(self, image: str, denoiser: Denoiser) -> str:
        value = image
        for place, (weights, bias) in enumerate(denoiser.layers):
            value = self._node("Relu", value) if place else value
            kind, stride = ("ConvTranspose", 2) if place == _TRANSPOSED else ("Conv", 2 if place == 1 else 1)
            value = self._node(kind, value, weights, bias, strides=[stride] * 2, pads=[1] * 4)
        return self._node("Max", self._node("Min", self._node("Add", image, value), 1.0), 0.0)

    def _channels_first(self, value: str, info: ModelInfo) -> str:
        match of_model(info):
            case Layout.HW:
                return self._node("Reshape", value, np.array([-1, 1, *info.shape], np.int64))
            case Layout.HWC:
                return self._node("Transpose", value, perm=[0, 3, 1, 2])
            case _:
                return value

    def _turned_back(self, value: str, info: ModelInfo) -> str:
        match of_model(info):
            case Layout.HW:
                return self._node("Reshape", value, np.array([-1, *info.shape], np.int64))
            case Layout.HWC:
                return self._node("Transpose", value, perm=[0, 2, 3, 1])
            case _:
                return value

    def _node(self, kind: str, *inputs: Any, out: str = "", **attributes: Any) -> str:
        names = [each if isinstance(each, str) else self._constant(each) for each in inputs]
        out = out or self._name()
        self._graph.node.append(helper.make_node(kind, names, [out], **attributes))
        return out

    def _constant(self, value: Any) -> str:
        array = value if isinstance(value, np.ndarray) else np.asarray(value, np.float32)
        name = self._name()
        self._graph.initializer.append(numpy_helper.from_array(array, name))
        return name

    def _name(self) -> str:
        self._number += 1
        return f"guard_reconstruction_{self._number}"


def _reads(node: onnx.NodeProto, old: str, new: str) -> None:
    """Have a node read another value."""
    for place, name in enumerate(node.input):
        if name == old:
            node.input[place] = new
    for attribute in node.attribute:
        if attribute.type in {AttributeProto.GRAPH, AttributeProto.GRAPHS}:
            for graph in (attribute.g, *attribute.graphs):
                for inner in graph.node:
                    _reads(inner, old, new)
