"""The models and the data of the benchmarks are what they say."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from benchmarks import data, models
from guard.errors import DataError


def test_models_have_their_weights() -> None:
    """Both models are made of the weights kept here, not of a draw, and answer ten logits that depend on the input."""
    kinds = ((models.lenet5, models.LENET5_SHAPE), (models.resnet20, models.RESNET20_SHAPE))
    for make, shape in kinds:
        x = torch.rand((3, *shape), generator=torch.Generator().manual_seed(0))
        logits = make()(x)
        assert logits.shape == (3, models.CLASSES)
        assert logits.std(dim=0).mean() > 0.1
        assert torch.equal(make()(x), logits)


def test_folding_changes_no_answer() -> None:
    """Batch normalisation folded into the convolutions leaves ResNet-20's answers as they were."""
    torch.manual_seed(0)
    net = models.ResNet20(folded=False)
    net(torch.rand(8, *models.RESNET20_SHAPE))  # in training mode, so that there are statistics to fold
    x = torch.rand(4, *models.RESNET20_SHAPE)
    expected = net.eval()(x)
    net.fold()
    assert torch.allclose(net(x), expected, atol=1e-4)
    assert models.ResNet20(folded=True).state_dict().keys() == net.state_dict().keys()


def test_data_is_read_as_it_is_laid_out(tmp_path: Path) -> None:
    """MNIST and CIFAR-10 come as channels first in [0, 1], CIFAR-10's classes by name and mixed."""
    pixels = np.full((4, 28, 28), 255, np.uint8)
    np.savez(tmp_path / data.MNIST, test_images=pixels, test_labels=np.arange(4, dtype=np.uint8))
    digits = data.load_mnist(tmp_path, "test", 3)
    assert (digits.pixels.shape, digits.pixels.max(), digits.labels.tolist()) == ((3, 1, 28, 28), 1.0, [0, 1, 2])
    with zipfile.ZipFile(tmp_path / data.CIFAR10, "w") as archive:
        for name, blue in (("bird", 0), ("cat", 255)):
            for i in range(8):
                colour = np.full((32, 32, 3), (blue, 0, 0), np.uint8)
                archive.writestr(f"test/{name}/{i:04}.jpg", cv2.imencode(".jpg", colour)[1].tobytes())
    images = data.load_cifar10(tmp_path, "test", 8)
    assert images.pixels.shape == (8, 3, 32, 32)
    assert ((images.pixels[:, 2].mean(axis=(1, 2)) > 0.9) == (images.labels == 1)).all()
    assert set(images.labels.tolist()) == {0, 1}


@pytest.mark.parametrize("load", [data.load_mnist, data.load_cifar10])
def test_missing_data_names_the_option(load: Callable[[Path, data.Part], data.Images], tmp_path: Path) -> None:
    """Where the file isn't there, or isn't what it should be, the message names it; missing, also the option."""
    with pytest.raises(DataError, match=r"does not exist: name the folder that holds .* with --data"):
        load(tmp_path, "test")
    for name in (data.MNIST, data.CIFAR10):
        (tmp_path / name).write_bytes(b"nothing")
    with pytest.raises(DataError, match="can't be read"):
        load(tmp_path, "test")
