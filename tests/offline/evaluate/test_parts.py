"""The parts: how attackers see a model, gradients of an ONNX file, conditions on the way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from guard.errors import BackendError
from guard.model.onnx import OnnxBackend, inspect_onnx
from guard.offline.conditions import DRIFT, LAUNDERING, Condition
from guard.offline.evaluate.craft import Crafter, Victim
from guard.offline.evaluate.kept import Kept
from guard.offline.evaluate.suite import find
from guard.offline.evaluate.target import Answers
from guard.offline.nets import SmallNet, to_onnx
from guard.offline.progress import quiet
from guard.offline.view import View
from guard.offline.whitebox import best_white_box, white_box
from guard.values import ModelInfo, OutputKind
from tests.support import digits
from tests.support.profiles import digits_backend


def info(shape: tuple[int, ...], bounds: tuple[float, float]) -> ModelInfo:
    """Of some model."""
    return ModelInfo("m", "x", "y", "FP32", shape, 3, bounds, OutputKind.LOGITS, "ab")


@pytest.mark.parametrize("shape", [(3, 5, 6), (5, 6, 3), (5, 6), (7,)])
def test_a_view_there_and_back(shape: tuple[int, ...]) -> None:
    """8-bit inputs of any layout and bounds come back from attackers' view as they were."""
    view = View(info(shape, (-1.0, 3.0)))
    levels = np.random.default_rng(0).integers(0, 256, (4, *shape))
    samples = (levels / 255 * 4 - 1).astype(np.float32)
    seen = view.view(samples)
    assert seen.dtype == np.uint8
    assert seen.shape[1:] == view.shape
    if view.image:
        assert view.shape[0] in {1, 3}
    np.testing.assert_allclose(view.own(seen), samples, atol=1e-6)


def test_gradients_of_an_onnx_file() -> None:
    """The torch module of a file gives the file's own answers, and the gradients of the network that it came from."""
    images = digits.load_data().test[0][:20]
    backend, net = digits_backend(), digits.trained_network()
    found = best_white_box(backend, images, seed=0, reporter=quiet())
    assert found.exact
    grads = []
    for module in (found.module, net):
        x = torch.from_numpy(images.copy()).requires_grad_(True)
        (grad,) = torch.autograd.grad(module(x).logsumexp(dim=1).sum(), x)
        grads.append(grad)
    torch.testing.assert_close(*grads)


def test_a_softmax_at_the_end(tmp_path: Path) -> None:
    """Gradients go around a final softmax, which would hide them where the model is sure."""
    net = SmallNet((1, 8, 8), 10, (0.0, 1.0)).eval()
    sure = nn.Sequential(net, _Times(100.0), nn.Softmax(dim=1)).eval()
    (tmp_path / "sure.onnx").write_bytes(to_onnx(sure, (1, 8, 8)))
    found = inspect_onnx(tmp_path / "sure.onnx", name="sure", bounds=(0.0, 1.0), dims=(1, 8, 8))
    module = white_box((tmp_path / "sure.onnx").read_bytes(), found)
    x = torch.rand(5, 1, 8, 8)
    torch.testing.assert_close(module(x), 100 * net(x), rtol=1e-4, atol=1e-4)


class _Times(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply."""
        return x * self.factor


def test_a_model_without_gradients(tmp_path: Path) -> None:
    """Where rounding takes the gradients away, attacks run on a surrogate, and how far it agrees is said."""
    model = onnx.load(digits.onnx_file())
    model.graph.node.insert(0, onnx.helper.make_node("Mul", ["input", "levels"], ["many"]))
    model.graph.node.insert(1, onnx.helper.make_node("Round", ["many"], ["whole"]))
    model.graph.node.insert(2, onnx.helper.make_node("Div", ["whole", "levels"], ["rounded"]))
    model.graph.node[3].input[0] = "rounded"
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(16), "levels"))
    onnx.save(model, tmp_path / "rounding.onnx")
    found = inspect_onnx(tmp_path / "rounding.onnx", name="rounding", bounds=(0.0, 1.0), dims=(1, 8, 8))
    backend = OnnxBackend((tmp_path / "rounding.onnx").read_bytes(), found)
    box = best_white_box(backend, digits.load_data().test[0], seed=0, reporter=quiet(), steps=100)
    assert not box.exact
    assert 0.7 < box.agreement <= 1


def test_a_file_that_cannot_be_converted() -> None:
    """What the converter can't take is an error of Guard's own."""
    with pytest.raises(BackendError, match="'m' can't be made a torch module"):
        white_box(b"this is no model", info((1, 8, 8), (0.0, 1.0)))


@pytest.mark.parametrize("condition", [*LAUNDERING, *DRIFT], ids=lambda condition: condition.title)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 20, 24), (4, 9, 9)])
def test_conditions(condition: Condition, shape: tuple[int, ...]) -> None:
    """A condition changes images, keeps what they show, and is the same for the same seed."""
    rows, columns = np.indices(shape[1:])
    images = np.broadcast_to(60 + 10 * rows + 50 * (columns % 3 == 1), (5, *shape)).clip(0, 255).astype(np.uint8)
    made = condition(images, 3)
    assert made.shape == images.shape
    assert made.dtype == np.uint8
    assert (made != images).any()
    assert np.abs(made.astype(int) - images).mean() < 60
    np.testing.assert_array_equal(condition(images, 3), made)


def test_severities_rise() -> None:
    """Of each kind of drift, the strongest changes more than the mildest."""
    images = View(digits_backend().info).view(digits.load_data().test[0][:20])
    change = [float(np.abs(each(images, 0).astype(int) - images).mean()) for each in DRIFT]
    kinds = [change[start : start + 5] for start in range(0, len(change), 5)]
    assert all(severities[-1] > severities[0] for severities in kinds)


@pytest.mark.parametrize("title", ["Transfer, PGD L-inf 0.3", "Square, L-inf 0.1", "SimBA, pixels, step 0.3"])
def test_the_same_seed_crafts_the_same(title: str, tmp_path: Path) -> None:
    """Crafting repeats with its seed, and leaves the global generators as they were."""
    images, labels = digits.load_data().test
    state = np.random.get_state()[1].copy()  # noqa: NPY002 - ART's own
    made = []
    for folder in ("a", "b"):
        answers = Answers(digits_backend())
        victim = Victim(answers, digits.trained_network(), True, "ab", digits.trained_network)
        crafter = Crafter(victim, 0, Kept(tmp_path / folder))
        made.append(crafter.craft(find(title), answers.view.view(images[:4]), labels[:4], lambda _: None))
    np.testing.assert_array_equal(made[0].images, made[1].images)
    assert (made[0].images != answers.view.view(images[:4])).any()
    assert made[0].answers == made[1].answers
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002 - as above
