"""The guarded models of the benchmarks: LeNet-5 on 28x28 and ResNet-20 on 32x32x3, trained under Gaussian noise.

`weights/` holds what `train.py` made of them, as float16 and with batch normalisation folded into the convolutions.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from guard.offline import nets

WEIGHTS: Final = Path(__file__).parent / "weights"
NOISE_SIGMA: Final = 0.25
"""What these models were trained with, in units of inputs from 0 to 1."""

LENET5_SHAPE: Final = (1, 28, 28)
RESNET20_SHAPE: Final = (3, 32, 32)
CLASSES: Final = 10
_WIDTHS = (16, 32, 64)
_BLOCKS = 3
_Net = TypeVar("_Net", bound=nn.Module)


class LeNet5(nn.Sequential):
    """LeCun et al. (1998), in the usual modern form: ReLU and max-pooling."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 6, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(400, 120),
            nn.ReLU(),
            nn.Linear(120, 84),
            nn.ReLU(),
            nn.Linear(84, CLASSES),
        )


class _Convolution(nn.Module):
    """3x3, and batch normalisation until it is folded."""

    def __init__(self, inputs: int, outputs: int, stride: int, *, folded: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=folded)
        self.norm = nn.Identity() if folded else nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.norm(self.conv(x))
        return output

    def fold(self) -> None:
        if isinstance(self.norm, nn.BatchNorm2d):
            self.conv, self.norm = fuse_conv_bn_eval(self.conv, self.norm), nn.Identity()


class _Block(nn.Module):
    """Two convolutions and a shortcut without parameters (option A of the paper)."""

    def __init__(self, inputs: int, outputs: int, *, folded: bool) -> None:
        super().__init__()
        self._stride = outputs // inputs
        self._padding = (outputs - inputs) // 2
        self.first = _Convolution(inputs, outputs, self._stride, folded=folded)
        self.second = _Convolution(outputs, outputs, 1, folded=folded)

    def forward(self, x: Tensor) -> Tensor:
        output = self.second(torch.relu(self.first(x)))
        if self._padding:
            x = nn.functional.pad(x[:, :, :: self._stride, :: self._stride], (0, 0, 0, 0, self._padding, self._padding))
        return torch.relu(output + x)


class ResNet20(nn.Module):
    """He et al. (2016), section 4.2, n = 3: three stages of three blocks, 16, 32 and 64 channels wide."""

    def __init__(self, *, folded: bool) -> None:
        super().__init__()
        self.stem = _Convolution(3, _WIDTHS[0], 1, folded=folded)
        inputs = (_WIDTHS[0], *_WIDTHS)
        self.blocks = nn.Sequential(
            *(
                _Block(inputs[stage] if block == 0 else width, width, folded=folded)
                for stage, width in enumerate(_WIDTHS)
                for block in range(_BLOCKS)
            )
        )
        self.head = nn.Linear(_WIDTHS[-1], CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 3, 32, 32) in [0, 1] to (batch, classes) logits."""
        output: Tensor = self.head(self.blocks(torch.relu(self.stem(x))).mean(dim=(2, 3)))
        return output

    def fold(self) -> None:
        """Fold batch normalisation into the convolutions; in evaluation mode only."""
        for module in self.modules():
            if isinstance(module, _Convolution):
                module.fold()


def lenet5() -> LeNet5:
    """LeNet-5 with the weights that are kept here."""
    return _with_weights(LeNet5(), WEIGHTS / "lenet5.npz")


def resnet20() -> ResNet20:
    """ResNet-20 with the weights that are kept here."""
    return _with_weights(ResNet20(folded=True), WEIGHTS / "resnet20.npz")


def lenet5_clean() -> LeNet5:
    """LeNet-5 as an ordinary classifier: trained without noise, so more often right, and less robust."""
    return _with_weights(LeNet5(), WEIGHTS / "lenet5-clean.npz")


def resnet20_clean() -> ResNet20:
    """ResNet-20 as one: `resnet20`, trained on without noise."""
    return _with_weights(ResNet20(folded=True), WEIGHTS / "resnet20-clean.npz")


def save_weights(net: nn.Module, path: Path) -> None:
    """Keep a network's parameters as float16: a third of a percent of a logit, half the size."""
    np.savez_compressed(path, **{name: value.numpy().astype(np.float16) for name, value in net.state_dict().items()})


def to_onnx(net: nn.Module, shape: tuple[int, ...]) -> bytes:
    """Export a network with a dynamic batch, from `input` to `logits`."""
    return nets.to_onnx(net.eval(), shape)


def _with_weights(net: _Net, path: Path) -> _Net:
    with np.load(path, allow_pickle=False) as arrays:
        net.load_state_dict({name: torch.from_numpy(arrays[name].astype(np.float32)) for name in arrays})
    for parameter in net.parameters():
        parameter.requires_grad = False
    return net.eval()


class _Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut, which is projected where the shape changes."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = 4 * width
        self.first = nn.Conv2d(inputs, width, 1)
        self.second = nn.Conv2d(width, width, 3, stride=stride, padding=1)
        self.third = nn.Conv2d(width, outputs, 1)
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        output = self.third(torch.relu(self.second(torch.relu(self.first(x)))))
        return torch.relu(output + self.shortcut(x))


class ResNet50(nn.Sequential):
    """He et al. (2016), table 1, as it runs: batch normalisation is folded into the convolutions."""

    def __init__(self, classes: int = 1000) -> None:
        blocks: list[nn.Module] = []
        inputs = 64
        for stage, count in enumerate((3, 4, 6, 3)):
            for block in range(count):
                blocks.append(_Bottleneck(inputs, 64 * 2**stage, 2 if stage > 0 and block == 0 else 1))
                inputs = 256 * 2**stage
        super().__init__(
            nn.Conv2d(3, 64, 7, stride=2, padding=3),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2, padding=1),
            *blocks,
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(inputs, classes),
        )


def resnet50(seed: int = 0) -> ResNet50:
    """ResNet-50 for 3x224x224 with random weights: its shape and cost, and nothing learnt."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = ResNet50()
    for module in net.modules():
        if isinstance(module, _Bottleneck):
            module.third.weight.data *= 0.25  # so that sums over blocks stay small
    for parameter in net.parameters():
        parameter.requires_grad = False
    return net.eval()
