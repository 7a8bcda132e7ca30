"""What is measured on a GPU: models with images, in fp32 and in fp16."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks import data, models
from guard.model.sweep import best_batch
from guard.model.torch import TorchBackend
from guard.values import Float32Array, ModelInfo, OutputKind

LARGE = "ResNet-50 (random weights)"
_BUCKET = 256
"""For the large model; the others get what suits them."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A model on the GPU with images; `requests` a round for the engine, `slow` for one at a time."""

    module: nn.Module
    backend: TorchBackend
    images: Float32Array
    requests: int
    slow: int


def load_images(folder: Path) -> tuple[Float32Array, Float32Array]:
    """Test images for LeNet-5 and for ResNet-20, or random ones where the folder has none."""
    if (folder / data.MNIST).is_file() and (folder / data.CIFAR10).is_file():
        return data.load_mnist(folder, "test", 400).pixels, data.load_cifar10(folder, "test", 400).pixels
    rng = np.random.default_rng(0)
    return rng.random((200, *models.LENET5_SHAPE), np.float32), rng.random((200, *models.RESNET20_SHAPE), np.float32)


def subjects(folder: Path, device: torch.device) -> Iterator[Subject]:
    """LeNet-5 and ResNet-20, and a ResNet-50's shape with random images."""
    mnist, cifar = load_images(folder)
    large = np.random.default_rng(0).random((32, 3, 224, 224), np.float32)
    for name, net, images, requests, slow in (
        ("LeNet-5", models.lenet5(), mnist, 3000, 10),
        ("ResNet-20", models.resnet20(), cifar, 2000, 4),
        (LARGE, models.resnet50(), large, 200, 2),
    ):
        shape, classes = images.shape[1:], 1000 if name == LARGE else models.CLASSES
        info = ModelInfo(name, "input", "logits", "FP32", shape, classes, (0.0, 1.0), OutputKind.LOGITS, name)
        module = net.to(device)
        yield Subject(module, _replica(module, info), images, requests, slow)


def _replica(module: nn.Module, info: ModelInfo) -> TorchBackend:
    backend = TorchBackend(module, info, batch=_BUCKET)
    if not info.name.startswith(LARGE):
        backend.preferred_batch = best_batch(backend, budget_s=2.0).batch
    return backend


def in_half(subject: Subject) -> Subject:
    """The same model in fp16, with the batch that suits it then."""
    info = replace(subject.backend.info, name=f"{subject.backend.info.name}, fp16")
    module = copy.deepcopy(subject.module).half()
    return replace(subject, module=module, backend=_replica(module, info))
