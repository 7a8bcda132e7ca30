"""Looking into a model: which tensors, that features are what they say, and that heads compute what torch does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from guard.errors import BackendError
from guard.model import inner
from guard.model.onnx import inspect_onnx, open_session
from guard.offline.nets import to_onnx
from guard.values import ModelInfo
from tests.support import digits

RNG = np.random.default_rng(0)
CPU = ("CPUExecutionProvider",)


class Tokens(nn.Module):
    """A layer of attention's shape: (batch, tokens, width) inside."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, 5, 4) to (batch, 3)."""
        return self.last(torch.relu(torch.tanh(torch.relu(self.first(x)))).mean(dim=1))


def info_of(model: bytes, dims: tuple[int, ...], folder: Path) -> ModelInfo:
    """What Guard reads of a model."""
    file = folder / "m.onnx"
    file.write_bytes(model)
    return inspect_onnx(file, name="m", bounds=(0.0, 1.0), dims=dims)


def test_features_are_pooled_activations(tmp_path: Path) -> None:
    """Images give means and maxima of each channel, vectors themselves, and the logits come in order too."""
    net = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5), nn.ReLU()
    )
    net.append(nn.Linear(5, 2)).eval()
    model = to_onnx(net, (1, 8, 8))
    x = RNG.random((6, 1, 8, 8), np.float32)
    found = inner.features_of(
        inner.looked_into(model, info_of(model, (1, 8, 8), tmp_path), x), info_of(model, (1, 8, 8), tmp_path), x
    )
    with torch.no_grad():
        first, second = net[:2](torch.from_numpy(x)), net[:4](torch.from_numpy(x))
        vector, logits = net[:7](torch.from_numpy(x)), net(torch.from_numpy(x))
    expected = [logits, logits.sort(dim=1, descending=True).values]
    for each in (first, second):
        expected += [each.mean(dim=(2, 3)), each.amax(dim=(2, 3))]
    np.testing.assert_allclose(found, torch.cat([*expected, vector], dim=1), atol=1e-5)


def test_tokens_are_pooled_over_their_positions(tmp_path: Path) -> None:
    """A tensor of (batch, tokens, width) gives a mean and a maximum for each of its width."""
    net = Tokens().eval()
    model = to_onnx(net, (5, 4))
    info = info_of(model, (5, 4), tmp_path)
    x = RNG.random((3, 5, 4), np.float32)
    found = inner.features_of(inner.looked_into(model, info, x), info, x)
    with torch.no_grad():
        tokens = torch.relu(net.first(torch.from_numpy(x)))
    np.testing.assert_allclose(found[:, 6:12], tokens.mean(dim=1), atol=1e-5)


def test_heads_are_what_torch_computes(tmp_path: Path) -> None:
    """The continued model gives the mean of its heads, on features in deviations that are cut off far out."""
    model, x = digits.onnx_file().read_bytes(), digits.load_data().test[0][:20]
    info = info_of(model, (1, 8, 8), tmp_path)
    opened = inner.looked_into(model, info, x)
    features = inner.features_of(opened, info, x)
    mean, deviation = features.mean(axis=0), features.std(axis=0) + 0.1
    heads = [nn.Sequential(nn.Linear(features.shape[1], 7), nn.ReLU(), nn.Linear(7, 2)) for _ in range(2)]
    layers = [
        [(each.weight.detach().numpy(), each.bias.detach().numpy()) for each in head if isinstance(each, nn.Linear)]
        for head in heads
    ]
    continued = inner.with_heads(opened, layers, mean, deviation, 1.0)
    (answer,) = open_session(continued, CPU).run([inner.ANSWER], {info.input_name: x})
    shown = torch.from_numpy((features - mean) / deviation).clamp(-1, 1)
    with torch.no_grad():
        expected = torch.stack([head(shown) for head in heads]).mean(dim=0)
    np.testing.assert_allclose(answer, expected, atol=1e-4)
    far = torch.from_numpy((features - mean) / deviation)
    assert bool((far.abs() > 1).any()), "or the cut isn't tested"


def test_deep_models_are_looked_into_at_ten_places(tmp_path: Path) -> None:
    """The first and the last activation are among them."""
    layers: list[nn.Module] = []
    for _ in range(25):
        layers += [nn.Linear(4, 4), nn.ReLU()]
    model = to_onnx(nn.Sequential(*layers, nn.Linear(4, 2)).eval(), (4,))
    info = info_of(model, (4,), tmp_path)
    x = RNG.random((2, 4), np.float32)
    assert inner.features_of(inner.looked_into(model, info, x), info, x).shape == (2, 2 * 2 + 10 * 4)


def test_a_model_without_activations_is_refused(tmp_path: Path) -> None:
    """A model that has nothing inside says so."""
    weights = numpy_helper.from_array(RNG.random((4, 2), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "plain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])],
        [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    info = info_of(model, (4,), tmp_path)
    with pytest.raises(BackendError, match="no inner activations"):
        inner.looked_into(model, info, RNG.random((2, 4), np.float32))
    assert onnx.load_from_string(model).graph.node[0].op_type == "MatMul"
