"""A model run on inputs and on their reconstructions, as one ONNX graph."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch.nn import functional

from guard.errors import BackendError
from guard.model.inner import ANSWER
from guard.model.onnx import OnnxBackend
from guard.model.reconstruct import Denoiser, reconstructed
from guard.values import Layout, ModelInfo, OutputKind

CLASSES = 3
RNG = np.random.default_rng(0)
KINDS = {"FP32": TensorProto.FLOAT, "UINT8": TensorProto.UINT8, "FP16": TensorProto.FLOAT16}


def denoiser(channels: int) -> Denoiser:
    """Random layers of the right shapes."""

    def layer(*shape: int, bias: int) -> tuple[np.ndarray, np.ndarray]:
        return 0.2 * RNG.standard_normal(shape, np.float32), 0.1 * RNG.standard_normal(bias, np.float32)

    return Denoiser(
        [
            layer(4, channels, 3, 3, bias=4),
            layer(8, 4, 3, 3, bias=8),
            layer(8, 8, 3, 3, bias=8),
            layer(8, 4, 4, 4, bias=4),
            layer(channels, 4, 3, 3, bias=channels),
        ]
    )


def rebuilt(made: Denoiser, x: torch.Tensor) -> torch.Tensor:
    """The same in torch, of images in [0, 1], channels first."""
    (a, b, c, d, e) = [(torch.from_numpy(w), torch.from_numpy(bias)) for w, bias in made.layers]
    value = functional.conv2d(x, *a, padding=1)
    value = functional.conv2d(value.relu(), *b, stride=2, padding=1)
    value = functional.conv2d(value.relu(), *c, padding=1)
    value = functional.conv_transpose2d(value.relu(), *d, stride=2, padding=1)
    return (x + functional.conv2d(value.relu(), *e, padding=1)).clamp(0, 1)


def model(shape: tuple[int, ...], weights: np.ndarray, datatype: str, opset: int) -> bytes:
    """A linear classifier of flat inputs."""
    nodes = [
        helper.make_node("Cast", ["x"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["real"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("x", KINDS[datatype], ["n", *shape])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", CLASSES])],
        [numpy_helper.from_array(weights, "w")],
        value_info=[helper.make_tensor_value_info("flat", TensorProto.FLOAT, ["n", len(weights)])],  # exporters say it
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    content: bytes = made.SerializeToString()
    return content


def info_of(shape: tuple[int, ...], datatype: str, bounds: tuple[float, float], layout: Layout | None) -> ModelInfo:
    """What the linear classifier is."""
    return ModelInfo("m", "x", "y", datatype, shape, CLASSES, bounds, OutputKind.LOGITS, "ab", layout=layout)


@pytest.mark.parametrize("opset", [9, 13, 18])
@pytest.mark.parametrize(
    ("shape", "layout", "datatype", "bounds"),
    [
        ((2, 6, 8), Layout.CHW, "FP32", (0.0, 1.0)),
        ((6, 8, 3), Layout.HWC, "FP32", (-1.0, 1.0)),
        ((6, 8), None, "FP32", (0.0, 255.0)),
        ((1, 6, 8), Layout.CHW, "UINT8", (0.0, 255.0)),
        ((1, 6, 8), Layout.CHW, "FP16", (0.0, 1.0)),
    ],
)
def test_score(
    shape: tuple[int, ...], layout: Layout | None, datatype: str, bounds: tuple[float, float], opset: int
) -> None:
    """The graph's score is the log of the L1 distance between both softmaxes, whatever the layout, units and type."""
    first = {Layout.HWC: (shape[-1], *shape[:-1]), Layout.CHW: shape, None: (1, *shape)}[layout]
    weights = RNG.standard_normal((int(np.prod(shape)), CLASSES), np.float32) / bounds[1]
    made = denoiser(first[0])
    info = info_of(shape, datatype, bounds, layout)
    content = reconstructed(model(shape, weights, datatype, opset), info, made)
    low, high = bounds
    x = RNG.uniform(low, high, (5, *shape)).astype(np.float32)
    x = np.rint(x) if datatype == "UINT8" else x.astype(np.float16).astype(np.float32)
    detector = OnnxBackend(content, replace(info, output_name=ANSWER, classes=2))
    answers = detector.logits(torch.from_numpy(x)).numpy()

    image = torch.from_numpy((x - low) / (high - low))
    image = image.permute(0, 3, 1, 2) if layout is Layout.HWC else image.reshape(5, *first)
    back = rebuilt(made, image)
    back = back.permute(0, 2, 3, 1) if layout is Layout.HWC else back.reshape(5, *shape)
    own = back.numpy() * (high - low) + low
    own = np.floor(own + 0.5) if datatype == "UINT8" else own
    one, other = (torch.from_numpy(each.reshape(5, -1) @ weights).softmax(dim=1) for each in (x, own))
    expected = ((one - other).abs().sum(dim=1) + 1e-3).log().numpy()
    np.testing.assert_array_equal(answers[:, 0], 0)
    np.testing.assert_allclose(answers[:, 1], expected, atol=0.05 if datatype == "FP16" else 1e-3)
    assert np.ptp(expected) > 0.1


def test_probabilities() -> None:
    """A model that answers probabilities is not put through a softmax again."""
    shape = (1, 6, 8)
    weights = RNG.standard_normal((48, CLASSES), np.float32)
    graph = onnx.load_from_string(model(shape, weights, "FP32", 13))
    graph.graph.node.append(helper.make_node("Softmax", ["y"], ["p"], axis=1))
    graph.graph.output[0].name = "p"
    made = denoiser(1)
    info = info_of(shape, "FP32", (0.0, 1.0), Layout.CHW)
    x = torch.rand(4, *shape)
    found = []
    for content, each in (
        (graph.SerializeToString(), replace(info, output_name="p", output_kind=OutputKind.PROBABILITIES)),
        (model(shape, weights, "FP32", 13), info),
    ):
        detector = OnnxBackend(
            reconstructed(content, each, made),
            replace(info, output_name=ANSWER, classes=2),
        )
        found.append(detector.logits(x).numpy())
    np.testing.assert_allclose(*found, atol=1e-4)


def test_what_is_no_graph() -> None:
    """Bytes that are no model are said to be none that could be used."""
    with pytest.raises(BackendError, match="can't be run on reconstructions"):
        reconstructed(b"no model", info_of((1, 6, 8), "FP32", (0.0, 1.0), Layout.CHW), denoiser(1))
