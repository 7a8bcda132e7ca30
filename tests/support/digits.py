"""A small classifier of scikit-learn's handwritten digits, trained once per checkout, and its data."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import warnings
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

CACHE = Path(__file__).parents[2] / ".cache" / "tests"
_TRAINING_SAMPLES = 800
_TEST_SAMPLES = 200
_EPOCHS = 40
_BATCH = 64


@dataclass(frozen=True)
class DigitsData:
    """Images, FP32 (n, 1, 8, 8) in 0..1, and labels, INT64 (n,), in three parts that share no image."""

    training: tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]
    calibration: tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]
    test: tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]


def load_data() -> DigitsData:
    """All 1797 digits, shuffled with a fixed seed."""
    bunch = load_digits()
    order = np.random.default_rng(0).permutation(len(bunch.images))
    images = (bunch.images[order, None] / 16).astype(np.float32)
    labels = bunch.target[order].astype(np.int64)
    bounds = (0, _TRAINING_SAMPLES, len(images) - _TEST_SAMPLES, len(images))
    parts = [(images[a:b], labels[a:b]) for a, b in pairwise(bounds)]
    return DigitsData(*parts)


def network() -> nn.Sequential:
    """The untrained classifier: (n, 1, 8, 8) to logits (n, 10)."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 4 * 4, 10),
    )


def onnx_file() -> Path:
    """The trained classifier: input `input` FP32 [N, 1, 8, 8], output `logits` FP32 [N, 10]."""
    return _trained() / "digits.onnx"


def trained_network() -> nn.Sequential:
    """The same classifier in torch, for attacks that need gradients."""
    net = network()
    net.load_state_dict(torch.load(_trained() / "digits.pt", weights_only=True))
    return net.eval()


def attack(
    net: nn.Module,
    images: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    *,
    epsilon: float = 0.25,
    steps: int = 10,
) -> npt.NDArray[np.float32]:
    """Projected gradient descent on the cross-entropy within an L-inf ball of `epsilon` (Madry et al., 2018)."""
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    adversarial = x.clone()
    for _ in range(steps):
        adversarial.requires_grad_()
        (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(net(adversarial), y), adversarial)
        stepped = adversarial.detach() + 2.5 * epsilon / steps * gradient.sign()
        adversarial = x + (stepped - x).clamp(-epsilon, epsilon)
        adversarial = adversarial.clamp(0, 1)
    return adversarial.numpy()


def _trained() -> Path:
    """The folder of the trained network, made on first use. Its name changes when this recipe does."""
    recipe = Path(__file__).read_bytes() + torch.__version__.encode()
    folder = CACHE / f"digits-{hashlib.sha256(recipe).hexdigest()[:16]}"
    if not folder.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        making = Path(tempfile.mkdtemp(dir=CACHE, prefix="making-"))
        try:
            _train_into(making)
            making.rename(folder)
        except OSError:
            if not folder.exists():  # else another test run made it meanwhile
                raise
        finally:
            shutil.rmtree(making, ignore_errors=True)
    return folder


def _train_into(folder: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = _fit(*(torch.from_numpy(part) for part in load_data().training))
    torch.save(net.state_dict(), folder / "digits.pt")
    _export(net, folder / "digits.onnx")


def _fit(images: Tensor, labels: Tensor) -> nn.Module:
    net = network()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    for _ in range(_EPOCHS):
        for rows in torch.randperm(len(images)).split(_BATCH):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(images[rows]), labels[rows]).backward()
            optimizer.step()
    return net.eval()


def _export(net: nn.Module, path: Path) -> None:
    """Write the network as ONNX with a dynamic batch dimension, weights inside."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's exporter warns about its own internals
        torch.onnx.export(
            net,
            (torch.zeros(2, 1, 8, 8),),
            path,
            dynamo=True,
            input_names=["input"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            external_data=False,
            verbose=False,
        )
