"""The network that looks at residuals: of any image, in any layout, exported as it is."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor

from guard.layout import to_channels_first
from guard.offline.nets import fit, one_thread, to_onnx
from guard.offline.residual import ResidualNet, mirrored
from guard.values import Layout

SHAPES = [((3, 32, 32), Layout.CHW), ((12, 20, 3), Layout.HWC), ((1, 1, 30), Layout.CHW)]
LAYOUTS = [
    ((1, 8, 8), Layout.CHW, 8),
    ((12, 20, 3), Layout.HWC, 4),
    ((9, 7), Layout.HW, 4),
    ((1, 1, 30), Layout.CHW, 2),
]


@pytest.mark.parametrize(("shape", "layout"), SHAPES)
def test_exported(shape: tuple[int, ...], layout: Layout) -> None:
    """ONNX Runtime answers as torch does, for batches of any size."""
    torch.manual_seed(0)
    net = ResidualNet(shape, 2, (0.0, 255.0), layout).eval()
    session = onnxruntime.InferenceSession(to_onnx(net, shape), providers=["CPUExecutionProvider"])
    for count in (1, 5):
        x = torch.rand(count, *shape) * 255
        (answer,) = session.run(None, {"input": x.numpy()})
        with torch.no_grad():
            np.testing.assert_allclose(answer, net(x).numpy(), rtol=1e-3, atol=1e-4)


def test_units_do_not_matter() -> None:
    """The same image in other units gets the same answer."""
    torch.manual_seed(0)
    net = ResidualNet((3, 16, 16), 2, (0.0, 1.0)).eval()
    torch.manual_seed(0)
    other = ResidualNet((3, 16, 16), 2, (-3.0, 5.0)).eval()
    x = torch.rand(4, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(net(x), other(8 * x - 3), rtol=1e-3, atol=1e-4)


def test_layouts_are_alike() -> None:
    """Channels first or last, an image is the same."""
    torch.manual_seed(0)
    first = ResidualNet((3, 16, 16), 2, (0.0, 1.0), Layout.CHW).eval()
    torch.manual_seed(0)
    last = ResidualNet((16, 16, 3), 2, (0.0, 1.0), Layout.HWC).eval()
    x = torch.rand(4, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(first(x), last(x.movedim(1, -1)))


def test_learns_what_is_far_below_the_contrast() -> None:
    """A chequered pattern of two levels of 255, on images of a hundred, is found in images that were not seen."""
    rng = torch.Generator().manual_seed(0)
    rows, columns = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")
    pattern = 4 / 255 * ((rows + columns) % 2 - 0.5)

    def drawn() -> tuple[Tensor, Tensor]:
        coarse = torch.rand(64, 1, 4, 4, generator=rng)
        images = torch.nn.functional.interpolate(coarse, size=16, mode="bilinear") * 0.8 + 0.1
        labels = torch.arange(64) % 2
        return images + labels[:, None, None, None] * pattern, labels

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            yield drawn()

    torch.manual_seed(0)
    net = ResidualNet((1, 16, 16), 2, (0.0, 1.0))
    with one_thread():
        fit(net, mirrored(batches(), (1, 16, 16), None, rng), steps=40, advance=lambda _: None)
    images, labels = drawn()
    with torch.no_grad():
        assert (net(images).argmax(dim=1) == labels).float().mean() > 0.95


@pytest.mark.parametrize(("shape", "layout", "ways"), LAYOUTS)
def test_mirrored(shape: tuple[int, ...], layout: Layout, ways: int) -> None:
    """Each image keeps its pixels and its label, in one of its own orientations; squares are transposed too."""
    rng = torch.Generator().manual_seed(0)
    x = torch.arange(64 * int(np.prod(shape)), dtype=torch.float32).reshape(64, *shape)
    found, labels = next(mirrored(iter([(x, torch.arange(64))]), shape, layout, rng))
    assert found.shape == x.shape
    assert labels.tolist() == list(range(64))
    seen = set()
    for before, after in zip(to_channels_first(x, layout), to_channels_first(found, layout), strict=True):
        bases = (before, before.mT) if before.shape[-1] == before.shape[-2] else (before,)
        possible = [base.flip(flips) for base in bases for flips in ((), (-1,), (-2,), (-2, -1))]
        seen.add(next(way for way, image in enumerate(possible) if torch.equal(image, after)))
    assert len(seen) == ways


def test_the_batch_that_was_given_stays_as_it_is() -> None:
    """Training material is used again and again."""
    x = torch.rand(32, 1, 8, 8)
    before = x.clone()
    next(mirrored(iter([(x, torch.zeros(32))]), (1, 8, 8), None, torch.Generator().manual_seed(0)))
    assert torch.equal(x, before)
