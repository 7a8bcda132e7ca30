"""A network that looks at the fine residual of an image, where perturbations are, and not at what it shows.

A perturbation of a few levels in 255 is far below an image's own contrast, so a plain network in training sees little
but the image, and learns it by heart. Steganalysis has the same task: high-pass filters first, whose answers are cut
off at a few levels (Fridrich and Kodovsky, 2012; Ye et al., 2017), as Liu et al. (2019) did against adversarial inputs.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from guard.layout import from_channels_first, to_channels_first
from guard.values import Layout

_WIDTHS = (16, 32, 64, 64)
_SMALL = 4
_LEVELS = 255
_CUT_OFFS = (8, 32)
"""In levels of 255: fine ones stay apart, and strong ones still count for more."""
_FILTERS = (
    ((0, 0, 0), (-0.5, 1, -0.5), (0, 0, 0)),
    ((0, -0.5, 0), (0, 1, 0), (0, -0.5, 0)),
    ((-0.25, 0.5, -0.25), (0.5, -1, 0.5), (-0.25, 0.5, -0.25)),
)


class ResidualNet(nn.Module):
    """Image and residuals, pairs of convolutions with batch normalisation, each halving them, and the mean over places.

    The mean has a network of few parameters, whatever the image's size; normalisation has it learn what plain ones of
    its size don't in any time worth waiting for.
    """

    def __init__(
        self, shape: tuple[int, ...], classes: int, bounds: tuple[float, float], layout: Layout | None = None
    ) -> None:
        super().__init__()
        self._bounds = bounds
        self._layout = layout
        channels, height, width = to_channels_first(torch.zeros(1, *shape), layout).shape[1:]
        self._filters: Tensor
        self.register_buffer("_filters", torch.tensor(_FILTERS).unsqueeze(1).repeat(channels, 1, 1, 1))
        layers: list[nn.Module] = []
        known = channels * (1 + len(_FILTERS) * len(_CUT_OFFS))
        for out in _WIDTHS:
            layers += [*_convolution(known, out), *_convolution(out, out)]
            if min(height, width) >= _SMALL:
                layers.append(nn.AvgPool2d(2))
                height, width = height // 2, width // 2
            known = out
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(known, classes)]
        self._layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, *shape) in the input's own units to (batch, classes) logits."""
        x = (to_channels_first(x, self._layout) - self._bounds[0]) / (self._bounds[1] - self._bounds[0])
        padded = nn.functional.pad(x, (1, 1, 1, 1), mode="replicate")
        residual = _LEVELS * nn.functional.conv2d(padded, self._filters, groups=x.shape[1])
        cut = [(residual / most).clamp(-1, 1) for most in _CUT_OFFS]
        output: Tensor = self._layers(torch.cat([x, *cut], dim=1))
        return output


def mirrored(
    batches: Iterator[tuple[Tensor, Tensor]], shape: tuple[int, ...], layout: Layout | None, rng: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of images and labels, each image mirrored by chance, across and upside down, and transposed if square.

    A perturbation stays one, and a network learns fewer of them by heart.
    """
    for batch, labels in batches:
        x = to_channels_first(batch, layout).clone()
        across, down, over = torch.randint(2, (3, len(x)), generator=rng).bool()
        x[across] = x[across].flip(-1)
        x[down] = x[down].flip(-2)
        if x.shape[-1] == x.shape[-2]:
            x[over] = x[over].mT
        yield from_channels_first(x, shape, layout), labels


def _convolution(known: int, out: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(known, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU()
