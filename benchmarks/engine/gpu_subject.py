"""What is measured on a GPU: models with images, and the replicas of each."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import onnxruntime as ort
import torch
from torch import nn

from benchmarks import data, models
from benchmarks.engine.subject import screen
from guard.model.backend import Backend
from guard.model.buckets import plain
from guard.model.onnx import OnnxBackend
from guard.model.sweep import best_batch
from guard.model.torch import TorchBackend
from guard.offline.quantise import halve
from guard.profile import spec
from guard.screen.build import build_detectors
from guard.screen.engine import Engine
from guard.screen.live_items import live_items
from guard.screen.trial import MODEL, NETWORK
from guard.values import Float32Array, ModelInfo, OutputKind

LARGE: Final = "ResNet-50 (random weights)"
SERVED: Final = "ONNX Runtime"
"""The replica that a policy with `device: cuda` runs: input and output bound once for each bucket."""
GRAPHS: Final = "torch, CUDA graphs"
HALF: Final = ", fp16"
_CUDA = "CUDAExecutionProvider"


class Size(NamedTuple):
    """How much is measured: rounds for the engine and beside slow references, copies, batches, and a load's seconds.

    `requests` is the share of what a subject asks for. `bucket` is the large model's batch, and what the reference
    takes of Cohen et al. at a time, less than the authors' 1000: with 224x224 pixels a GPU is full with it.
    """

    rounds: int = 5
    slow_rounds: int = 3
    cap: int = 500
    n: int = 1000
    bucket: int = 256
    load_s: float = 5.0
    requests: float = 1.0


FULL: Final = Size()


@dataclass(frozen=True, slots=True)
class Subject:
    """A model on a device with images; `requests` a round for the engine, `slow` images for one at a time."""

    module: nn.Module
    info: ModelInfo
    onnx: bytes
    images: Float32Array
    requests: int
    slow: int
    size: Size = FULL

    @property
    def name(self) -> str:
        """The model's."""
        return self.info.name

    @property
    def device(self) -> torch.device:
        """Where the module is."""
        return next(self.module.parameters()).device

    def shown(self, share: float = 1.0) -> list[Float32Array]:
        """A round's images, or a share of them."""
        count = max(1, int(self.requests * self.size.requests * share))
        return [self.images[i % len(self.images)] for i in range(count)]


class Kind(NamedTuple):
    """A kind of replica: its name in the table, and what makes one, whose batch suits it."""

    how: str
    make: Callable[[], Backend]


def load_images(folder: Path) -> tuple[Float32Array, Float32Array]:
    """Test images for LeNet-5 and for ResNet-20, or random ones where the folder has none."""
    if (folder / data.MNIST).is_file() and (folder / data.CIFAR10).is_file():
        return data.load_mnist(folder, "test", 400).pixels, data.load_cifar10(folder, "test", 400).pixels
    rng = np.random.default_rng(0)
    return rng.random((200, *models.LENET5_SHAPE), np.float32), rng.random((200, *models.RESNET20_SHAPE), np.float32)


def subjects(folder: Path, device: torch.device, *, size: Size = FULL, pixels: int = 224) -> Iterator[Subject]:
    """A ResNet-50's shape with random images, which the targets are about, then ResNet-20 and LeNet-5."""
    mnist, cifar = load_images(folder)
    large = np.random.default_rng(0).random((32, 3, pixels, pixels), np.float32)
    for name, net, images, requests, slow in (
        (LARGE, models.resnet50(), large, 120, 2),
        ("ResNet-20", models.resnet20(), cifar, 1500, 4),
        ("LeNet-5", models.lenet5(), mnist, 3000, 10),
    ):
        shape, classes = images.shape[1:], 1000 if name == LARGE else models.CLASSES
        info = ModelInfo(name, "input", "logits", "FP32", shape, classes, (0.0, 1.0), OutputKind.LOGITS, name)
        yield Subject(net.to(device), info, models.to_onnx(net, shape), images, requests, slow, size)


def providers(device: torch.device) -> tuple[str, ...] | None:
    """Those that ONNX Runtime runs on there; None if it has none."""
    if device.type != "cuda":
        return ("CPUExecutionProvider",)
    return (_CUDA,) if _CUDA in ort.get_available_providers() else None


def kinds(subject: Subject) -> Iterator[Kind]:
    """The replicas of a model, as served first. Without a provider for its device ONNX Runtime has none."""
    where = providers(subject.device)
    if where is not None:
        for how, halved in ((SERVED, False), (SERVED + HALF, True)):
            yield Kind(how, partial(_onnx, subject, where, halved=halved))
    yield Kind(GRAPHS, partial(_graphs, subject, halved=False))
    yield Kind(GRAPHS + HALF, partial(_graphs, subject, halved=True))


def _onnx(subject: Subject, where: tuple[str, ...], *, halved: bool) -> Backend:
    content = halve(subject.onnx) if halved else subject.onnx
    info = replace(subject.info, fingerprint=f"{subject.name} {halved}")
    return _fitted(subject, OnnxBackend(content, info, providers=where, batch=subject.size.bucket, bound=True))


def _graphs(subject: Subject, *, halved: bool) -> Backend:
    module = copy.deepcopy(subject.module).half() if halved else subject.module
    capture = None if subject.device.type == "cuda" else plain
    return _fitted(subject, TorchBackend(module, subject.info, batch=subject.size.bucket, capture=capture))


def _fitted(subject: Subject, backend: Backend) -> Backend:
    if subject.name != LARGE:
        backend.preferred_batch = best_batch(backend).batch  # as a sidecar does at its start
    return backend


@contextmanager
def running(
    subject: Subject, backend: Backend, *designs: spec.DetectorSpec, network: Backend | None = None
) -> Iterator[Engine]:
    """An engine, warm, with as many live items as a sidecar would let in."""
    backends = {MODEL: backend} if network is None else {MODEL: backend, NETWORK: network}
    detectors = build_detectors(designs)
    engine = Engine(
        detectors=detectors,
        backends=backends,
        secret=b"benchmark",
        max_queued_items=4096,
        max_live_items=live_items(None, detectors, backends),
        on_device=True,
    )
    engine.start()
    try:
        screen(engine, subject.images[:32])
        yield engine
    finally:
        engine.stop()
