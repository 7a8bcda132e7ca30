"""Training a denoiser: benign images come through it as they were, and what an attack added does not."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from guard.model.backend import Backend
from guard.model.onnx import OnnxBackend
from guard.model.reconstruct import Denoiser, reconstructed
from guard.offline.nets import one_thread
from guard.offline.progress import Reporter
from guard.offline.view import View, from_bytes
from guard.values import Float32Array

_WIDTH = 16
_BATCH = 64
_COARSE = 4
_LEARNING_RATE = 2e-3


def train_denoiser(
    backend: Backend, samples: Float32Array, noise: float, *, seed: int, reporter: Reporter, steps: int
) -> bytes | None:
    """The model run on reconstructions by a denoiser that was trained on clean samples, (n, *shape), as ONNX bytes.

    `noise` is the strongest that it learns to take away, in deviations as a share of the input's range. None for what
    are no images, or of an odd size, and for a model that is no file.

    Raises:
        BackendError: the model's graph can't be continued.
    """
    view = View(backend.info)
    if not isinstance(backend, OnnxBackend) or not view.image or any(side % 2 for side in view.shape[1:]):
        return None
    images = torch.from_numpy(from_bytes(view.view(samples)))
    rng = torch.Generator().manual_seed(seed)
    with (
        one_thread(),
        torch.random.fork_rng(devices=[]),
        reporter.stage("training a denoiser", steps) as advance,
    ):
        torch.manual_seed(seed)
        net = _Net(images.shape[1])
        optimiser = torch.optim.Adam(net.parameters(), lr=_LEARNING_RATE)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _LEARNING_RATE, total_steps=steps)
        for _ in range(steps):
            clean = images[torch.randint(len(images), (_BATCH,), generator=rng)]
            loss = functional.mse_loss(net(_noisy(clean, noise, rng)), clean)
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
            schedule.step()
            advance(1)
    return reconstructed(backend.content, backend.info, net.weights())


class _Net(nn.Module):
    """What `Denoiser` describes."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self._layers = nn.ModuleList(
            [
                nn.Conv2d(channels, _WIDTH, 3, padding=1),
                nn.Conv2d(_WIDTH, 2 * _WIDTH, 3, stride=2, padding=1),
                nn.Conv2d(2 * _WIDTH, 2 * _WIDTH, 3, padding=1),
                nn.ConvTranspose2d(2 * _WIDTH, _WIDTH, 4, stride=2, padding=1),
                nn.Conv2d(_WIDTH, channels, 3, padding=1),
            ]
        )

    def forward(self, x: Tensor) -> Tensor:
        """Reconstruct, not yet clipped: what is clipped teaches nothing."""
        value = x
        for place, layer in enumerate(self._layers):
            value = layer(functional.relu(value) if place else value)
        return x + value

    def weights(self) -> Denoiser:
        """As arrays."""
        pairs = [(layer.weight, layer.bias) for layer in self._layers]
        return Denoiser([(_array(weights), _array(bias)) for weights, bias in pairs])


def _array(value: object) -> Float32Array:
    assert isinstance(value, Tensor)  # noqa: S101 - a layer's parameter is one
    return np.asarray(value.detach().numpy(), np.float32)


def _noisy(clean: Tensor, noise: float, rng: torch.Generator) -> Tensor:
    """Fine noise, coarse noise, or both, of any strength up to the strongest."""
    strengths = noise * torch.rand(2, len(clean), 1, 1, 1, generator=rng)
    fine = torch.randn(clean.shape, generator=rng) * strengths[0]
    height, width = clean.shape[2:]
    small = (len(clean), clean.shape[1], max(height // _COARSE, 1), max(width // _COARSE, 1))
    coarse = functional.interpolate(torch.randn(small, generator=rng), size=(height, width), mode="bilinear")
    wanted = (torch.rand(2, len(clean), 1, 1, 1, generator=rng) < 2 / 3).float()
    return (clean + wanted[0] * fine + wanted[1] * coarse * strengths[1]).clamp(0, 1)
