"""The classifier of digits as a model of another data type or layout, with the samples that it takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.transformers.float16 import convert_float_to_float16

from guard.model.onnx import OnnxBackend, inspect_onnx
from guard.values import Float32Array
from tests.support import digits


@dataclass(frozen=True)
class Variant:
    """A data type, the bounds of the model's values in it, and whether channels are last."""

    datatype: str
    onnx_type: int
    bounds: tuple[float, float] = (0.0, 1.0)
    channels_last: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one input."""
        return (8, 8, 1) if self.channels_last else (1, 8, 8)

    def samples(self, images: Float32Array) -> Float32Array:
        """Digits (n, 1, 8, 8) in 0..1 as this model takes them, before they are rounded to its data type."""
        low, high = self.bounds
        moved = np.moveaxis(images, 1, -1) if self.channels_last else images
        return np.ascontiguousarray(moved * (high - low) + low, np.float32)

    def save(self, path: Path) -> Path:
        """Write the model: its inputs are cast, scaled to 0..1 and turned; FP16 computes in FP16 throughout."""
        model = onnx.load(digits.onnx_file())
        if self.onnx_type == TensorProto.FLOAT16:
            model = convert_float_to_float16(model)
        graph, (low, high) = model.graph, self.bounds
        inner = graph.input[0].name
        computed = graph.input[0].type.tensor_type.elem_type
        steps = [("Cast", [], {"to": computed})]
        if self.bounds != (0.0, 1.0):
            steps += [("Sub", [_constant(graph, "low", low)], {}), ("Div", [_constant(graph, "span", high - low)], {})]
        if self.channels_last:
            steps.append(("Transpose", [], {"perm": [0, 3, 1, 2]}))
        names = ["image", *(f"step_{place}" for place in range(1, len(steps))), inner]
        for place, (kind, others, attributes) in enumerate(steps):
            node = helper.make_node(kind, [names[place], *others], [names[place + 1]], **attributes)
            graph.node.insert(place, node)
        del graph.input[:]
        graph.input.append(helper.make_tensor_value_info("image", self.onnx_type, ["batch", *self.shape]))
        onnx.save(model, path)
        return path

    def backend(self, path: Path) -> OnnxBackend:
        """A replica of the model, which is saved there."""
        info = inspect_onnx(self.save(path), name=path.stem, bounds=self.bounds, dims=self.shape)
        return OnnxBackend(path.read_bytes(), info)


FP32 = Variant("FP32", TensorProto.FLOAT)
VARIANTS = {
    "fp32": FP32,
    "fp16": Variant("FP16", TensorProto.FLOAT16),
    "bf16": Variant("BF16", TensorProto.BFLOAT16),
    "fp64": Variant("FP64", TensorProto.DOUBLE, (-1.0, 1.0)),
    "uint8": Variant("UINT8", TensorProto.UINT8, (0.0, 255.0)),
    "int8": Variant("INT8", TensorProto.INT8, (-128.0, 127.0)),
    "fp32-nhwc": Variant("FP32", TensorProto.FLOAT, channels_last=True),
    "uint8-nhwc": Variant("UINT8", TensorProto.UINT8, (0.0, 255.0), channels_last=True),
}


def _constant(graph: onnx.GraphProto, name: str, value: float) -> str:
    graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), name))
    return name
