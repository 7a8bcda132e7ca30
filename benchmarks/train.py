"""Train the benchmarks' models under Gaussian noise, and keep their weights.

    python -m benchmarks.train lenet5 --data FOLDER
    python -m benchmarks.train lenet5-clean --data FOLDER
    python -m benchmarks.train resnet20 --data FOLDER
    python -m benchmarks.train resnet20-clean --data FOLDER

Noise on training images is what makes certificates of Gaussian smoothing meaningful (Cohen et al., 2019). Half of each
batch stays clean, since Guard takes the label that it certifies from the clean input. The clean ones are the ordinary
classifiers that detection is measured with: LeNet-5 never saw noise, and ResNet-20 is the other, trained on without it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Annotated, Final

import numpy as np
import torch
import typer
from rich.console import Console
from torch import Tensor, nn

from benchmarks.data import Images, load_cifar10, load_mnist
from benchmarks.models import (
    NOISE_SIGMA,
    WEIGHTS,
    LeNet5,
    ResNet20,
    lenet5,
    lenet5_clean,
    resnet20,
    resnet20_clean,
    save_weights,
)
from guard.offline.progress import Reporter

_BATCH = 128
_CROP_PX = 4


class Name(Enum):
    """What can be trained."""

    LENET5 = "lenet5"
    LENET5_CLEAN = "lenet5-clean"
    RESNET20 = "resnet20"
    RESNET20_CLEAN = "resnet20-clean"


_KEPT: Final[dict[Name, Callable[[], nn.Module]]] = {
    Name.LENET5: lenet5,
    Name.LENET5_CLEAN: lenet5_clean,
    Name.RESNET20: resnet20,
    Name.RESNET20_CLEAN: resnet20_clean,
}


def train(
    name: Annotated[Name, typer.Argument(help="The model to train")],
    data: Annotated[Path, typer.Option(help="Folder with mnist.npz and cifar10-jpeg.zip")],
    seed: Annotated[int, typer.Option(help="Of the weights, the order and the noise")] = 0,
    threads: Annotated[int, typer.Option(help="Of torch")] = 2,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training images")] = None,
) -> None:
    """Train one model, keep it in benchmarks/weights, and say how often it is right."""
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    console = Console()
    reporter = Reporter(console)
    if name in {Name.LENET5, Name.LENET5_CLEAN}:
        small, noisy = LeNet5(), _BATCH // 2 if name is Name.LENET5 else 0
        fit(small, load_mnist(data, "train"), reporter, epochs=epochs or 10, rate=0.05, move=lambda x: x, noisy=noisy)
        save_weights(small, WEIGHTS / f"{name.value}.npz")
    elif name is Name.RESNET20:
        large = ResNet20(folded=False)
        fit(large, load_cifar10(data, "train"), reporter, epochs=epochs or 20, rate=0.2, move=crop_and_flip)
        large.fold()
        save_weights(large, WEIGHTS / "resnet20.npz")
    else:
        clean, images = resnet20().requires_grad_(), load_cifar10(data, "train")
        fit(clean, images, reporter, epochs=epochs or 10, rate=0.012, move=crop_and_flip, noisy=0, clip=2.0)
        save_weights(clean, WEIGHTS / "resnet20-clean.npz")
    kept = _KEPT[name]()
    held_out = load_mnist(data, "test") if isinstance(kept, LeNet5) else load_cifar10(data, "test")
    console.print(f"right on clean test images: {accuracy(kept, held_out, 0.0):.4f}")
    console.print(f"right under noise of {NOISE_SIGMA}: {accuracy(kept, held_out, NOISE_SIGMA):.4f}")


def fit(
    net: nn.Module,
    images: Images,
    reporter: Reporter,
    *,
    epochs: int,
    rate: float,
    move: Callable[[Tensor], Tensor],
    noisy: int = _BATCH // 2,
    clip: float = math.inf,
) -> None:
    """Minimise cross-entropy by SGD and a one-cycle rate; leaves evaluation mode on.

    Images are moved, and the first `noisy` of each batch get noise on top. `clip` bounds the norm of gradients, without
    which a network whose batch normalisation is folded may diverge.
    """
    pixels, labels = torch.from_numpy(images.pixels), torch.from_numpy(images.labels)
    steps = len(pixels) // _BATCH
    optimiser = torch.optim.SGD(net.parameters(), lr=rate, momentum=0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=epochs * steps, pct_start=0.25)
    net.train()
    with reporter.stage("training", epochs * steps) as advance:
        for _ in range(epochs):
            for rows in torch.randperm(len(pixels))[: steps * _BATCH].reshape(steps, _BATCH):
                x = move(pixels[rows])
                x[:noisy] += NOISE_SIGMA * torch.randn_like(x[:noisy])
                x = x.contiguous(memory_format=torch.channels_last)
                with torch.autocast("cpu", torch.bfloat16):  # a third less time, where the processor knows the type
                    logits = net(x)
                loss = nn.functional.cross_entropy(logits.float(), labels[rows])
                optimiser.zero_grad()
                torch.autograd.backward(loss)
                nn.utils.clip_grad_norm_(net.parameters(), clip)
                optimiser.step()
                schedule.step()
                advance(1)
    net.eval()


def crop_and_flip(x: Tensor) -> Tensor:
    """Shift each image of (batch, channels, height, width) by up to four pixels, and mirror half of them."""
    batch, _, height, width = x.shape
    padded = nn.functional.pad(x, (_CROP_PX,) * 4)
    rows = torch.arange(height) + torch.randint(2 * _CROP_PX + 1, (batch, 1))
    columns = torch.arange(width) + torch.randint(2 * _CROP_PX + 1, (batch, 1))
    columns = torch.where(torch.rand(batch, 1) < 0.5, columns.flip(1), columns)  # noqa: PLR2004 - half
    return padded[torch.arange(batch)[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


@torch.inference_mode()
def accuracy(net: nn.Module, images: Images, sigma: float, seed: int = 1) -> float:
    """How often a model is right under Gaussian noise of `sigma`."""
    rng = torch.Generator().manual_seed(seed)
    right = 0
    for pixels, labels in zip(np.array_split(images.pixels, 100), np.array_split(images.labels, 100), strict=True):
        x = torch.from_numpy(pixels)
        x = x + sigma * torch.randn(x.shape, generator=rng)
        right += int((net(x).argmax(dim=1) == torch.from_numpy(labels)).sum())
    return right / len(images.labels)


if __name__ == "__main__":
    typer.run(train)
