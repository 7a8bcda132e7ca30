"""Small networks: any shape of input, their training, their way to ONNX, and the detector network made of them."""

from __future__ import annotations

import itertools

import pytest
import torch

from guard.model.onnx import OnnxBackend
from guard.model.torch import TorchBackend
from guard.offline.nets import SmallNet, fit, to_onnx
from guard.offline.network import train_surrogate
from guard.offline.progress import quiet
from guard.values import ModelInfo, OutputKind
from tests.support.digits import DigitsData, trained_network

DIGITS = ModelInfo("digits", "input", "logits", "FP32", (1, 8, 8), 10, (0.0, 1.0), OutputKind.LOGITS, "ab")


def same(x: torch.Tensor, y: torch.Tensor) -> None:
    """Assert that two answers agree but for rounding."""
    torch.testing.assert_close(x, y, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "shape", [(1, 8, 8), (3, 32, 32), (28, 28), (12, 20, 3), (5,), (2, 3, 4, 5), (1, 1, 16), (3, 16, 1), (2, 2), (1, 9)]
)
def test_any_shape(shape: tuple[int, ...]) -> None:
    """Images in every layout, single lines of pixels, vectors and higher dimensions are all classified."""
    net = SmallNet(shape, 4, (0.0, 1.0)).eval()
    assert net(torch.rand(3, *shape)).shape == (3, 4)


def test_units_make_no_difference() -> None:
    """Inputs are brought to 0..1 by the bounds, so that the same network serves in other units."""
    net, other = SmallNet((6,), 3, (0.0, 1.0)).eval(), SmallNet((6,), 3, (-10.0, 30.0)).eval()
    other.load_state_dict(net.state_dict())
    x = torch.rand(4, 6)
    same(other(x * 40 - 10), net(x))


@pytest.mark.parametrize("shape", [(1, 8, 8), (12, 20, 3), (5,)])
def test_onnx_agrees_at_any_batch(shape: tuple[int, ...]) -> None:
    """The exported network answers as in torch, at batch sizes that it was not exported with."""
    net = SmallNet(shape, 4, (-1.0, 2.0)).eval()
    info = ModelInfo("net", "in", "out", "FP32", shape, 4, (-1.0, 2.0), OutputKind.LOGITS, "ab")
    backend = OnnxBackend(to_onnx(net, shape, input_name="in", output_name="out"), info)
    for batch in (1, 2, 7):
        x = torch.rand(batch, *shape) * 3 - 1
        same(backend.logits(x), net(x).detach())


@pytest.mark.parametrize("soft", [False, True])
def test_fit_learns(soft: bool) -> None:  # noqa: FBT001 - a table
    """Training solves a simple problem, given class indices or probabilities, step by step; dropout is off after."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = SmallNet((2,), 2, (0.0, 1.0))
        x = torch.rand(256, 2)
        classes = (x[:, 0] > x[:, 1]).long()
        targets = torch.nn.functional.one_hot(classes, 2).float() if soft else classes
        done: list[int] = []
        fit(net, itertools.repeat((x, targets)), steps=80, advance=done.append)
    assert done == [1] * 80
    assert not net.training
    assert float((net(x).argmax(dim=1) == classes).float().mean()) > 0.95


@pytest.fixture(scope="module")
def surrogate_of_digits(digits_data: DigitsData) -> torch.nn.Module:
    """A surrogate of the digits classifier, from its answers on clean samples."""
    backend = TorchBackend(trained_network(), DIGITS)
    surrogate = train_surrogate(backend, digits_data.calibration[0][:200], seed=0, reporter=quiet(), steps=150)
    assert isinstance(surrogate, torch.nn.Module)
    return surrogate


def test_surrogate_imitates(surrogate_of_digits: torch.nn.Module, digits_data: DigitsData) -> None:
    """A surrogate gives most held-out digits the labels that the model gives them, right or wrong; it is frozen."""
    x = torch.from_numpy(digits_data.test[0])
    with torch.no_grad():
        agreement = (surrogate_of_digits(x).argmax(1) == trained_network()(x).argmax(1)).double().mean()
    assert float(agreement) > 0.85
    assert not any(parameter.requires_grad for parameter in surrogate_of_digits.parameters())


def test_training_repeats_and_leaves_no_trace(digits_data: DigitsData) -> None:
    """The same seed gives the same weights, another one gives others, and the caller's torch is untouched."""
    backend, samples = TorchBackend(trained_network(), DIGITS), digits_data.calibration[0][:20]

    def weights(seed: int) -> torch.Tensor:
        surrogate = train_surrogate(backend, samples, seed=seed, reporter=quiet(), steps=3)
        assert isinstance(surrogate, torch.nn.Module)
        return torch.cat([parameter.flatten() for parameter in surrogate.parameters()])

    before, threads = torch.random.get_rng_state(), torch.get_num_threads()
    first = weights(1)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.get_num_threads() == threads
    torch.rand(3)
    assert torch.equal(weights(1), first)
    assert not torch.equal(weights(2), first)
