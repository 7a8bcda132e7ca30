"""Small networks, their training and their way to ONNX."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from guard.layout import is_image, to_channels_first
from guard.values import Layout

_WIDTHS = (32, 64, 128, 128)
_SMALL = 7


class SmallNet(nn.Module):
    """Convolutions in pairs, each pair halving the image until it is small; a plain network where there is no image.

    The 32-32-pool-64-64-pool pattern is that of Gong et al. (2017).
    """

    def __init__(
        self, shape: tuple[int, ...], classes: int, bounds: tuple[float, float], layout: Layout | None = None
    ) -> None:
        super().__init__()
        self._bounds = bounds
        self._layout = layout
        layers: list[nn.Module] = []
        self._image = is_image(shape, layout)
        if self._image:
            channels, height, width = to_channels_first(torch.zeros(1, *shape), layout).shape[1:]
            for out in _WIDTHS:
                layers += [nn.Conv2d(channels, out, 3, padding=1), nn.ReLU()]
                pool = min(2, height), min(2, width)  # an image may be a single line of pixels
                layers += [nn.Conv2d(out, out, 3, padding=1), nn.ReLU(), nn.MaxPool2d(pool)]
                channels, height, width = out, height // pool[0], width // pool[1]
                if min(height, width) <= _SMALL:
                    break
            features = channels * height * width
        else:
            features = torch.Size(shape).numel()
            layers += [nn.Flatten(), nn.Linear(features, 256), nn.ReLU()]
            features = 256
        layers += [nn.Flatten(), nn.Dropout(0.3), nn.Linear(features, 128), nn.ReLU(), nn.Linear(128, classes)]
        self._layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, *shape) in the input's own units to (batch, classes) logits."""
        x = (x - self._bounds[0]) / (self._bounds[1] - self._bounds[0])
        output: Tensor = self._layers(to_channels_first(x, self._layout) if self._image else x)
        return output


class Average(nn.Module):
    """The mean of several networks' logits."""

    def __init__(self, nets: Sequence[nn.Module]) -> None:
        super().__init__()
        self._nets = nn.ModuleList(nets)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, *shape) to (batch, classes)."""
        return torch.stack([net(x) for net in self._nets]).mean(dim=0)


def fit(
    net: nn.Module,
    batches: Iterator[tuple[Tensor, Tensor]],
    *,
    steps: int,
    advance: Callable[[int], None],
    learning_rate: float = 1e-3,
) -> None:
    """Minimise cross-entropy over `steps` batches of (inputs, class indices or probabilities); leaves eval mode on."""
    optimiser = torch.optim.Adam(net.parameters(), lr=learning_rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, learning_rate * 2, total_steps=steps)
    net.train()
    for _ in range(steps):
        x, target = next(batches)
        loss = nn.functional.cross_entropy(net(x), target)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        schedule.step()
        advance(1)
    net.eval()


def to_onnx(net: nn.Module, shape: tuple[int, ...], *, input_name: str = "input", output_name: str = "logits") -> bytes:
    """Export a network in evaluation mode with a dynamic batch dimension, weights inside."""
    with tempfile.TemporaryDirectory() as folder, _quiet_exporter():
        path = Path(folder) / "model.onnx"
        torch.onnx.export(
            net,
            (torch.zeros(2, *shape),),
            str(path),
            input_names=[input_name],
            output_names=[output_name],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
        return path.read_bytes()


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep torch to one thread: on small networks several mostly wait for each other, for minutes on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """The exporter warns of its own deprecations and of packages it can do without; neither is a user's concern."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
