"""What is measured: a model with its images, as Guard runs it and as the references do."""

from __future__ import annotations

import sys
import time
import timeit
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import nn

from benchmarks import data, models
from guard.app.sidecar import SWITCH_S
from guard.model.backend import Backend
from guard.model.onnx import OnnxBackend
from guard.model.sweep import BUCKETS, best_batch
from guard.profile.spec import DetectorSpec
from guard.screen.build import build_detectors
from guard.screen.engine import Engine
from guard.screen.trial import MODEL, NETWORK
from guard.values import Float32Array, IntArray, ModelInfo, OutputKind, Screening

SIGMA = models.NOISE_SIGMA
_WINDOW = 128
"""Items in flight when the engine is to be busy."""
_TRIES = 9


@dataclass(frozen=True, slots=True)
class Subject:
    """A trained classifier: the torch module that references run, the replica that Guard runs, and test images.

    `images` are benign, `attacked` the same images moved by one FGSM step where that changed the label. `batch` is what
    the engine takes, `best` that in which an evaluation takes least, however long the whole batch does: evaluation_s.
    """

    name: str
    module: nn.Module
    onnx: bytes
    info: ModelInfo
    images: Float32Array
    attacked: Float32Array
    own_labels: IntArray
    evaluation_s: float
    batch: int
    best: int

    def replica(self) -> OnnxBackend:
        """A replica with the batch that it likes best."""
        return OnnxBackend(self.onnx, self.info, batch=self.batch)


def load(folder: Path, *, images: int = 400, seed: int = 0) -> tuple[Subject, Subject]:
    """LeNet-5 on MNIST and ResNet-20 on CIFAR-10, with test images in a seeded order."""
    lenet, resnet = models.lenet5(), models.resnet20()
    mnist = data.load_mnist(folder, "test", 4 * images)
    cifar = data.load_cifar10(folder, "test", 4 * images)
    return (
        subject("LeNet-5", lenet, models.LENET5_SHAPE, mnist, images, epsilon=0.2, seed=seed),
        subject("ResNet-20", resnet, models.RESNET20_SHAPE, cifar, images, epsilon=8 / 255, seed=seed),
    )


def subject(
    name: str,
    module: nn.Module,
    shape: tuple[int, ...],
    source: data.Images,
    count: int,
    *,
    epsilon: float,
    seed: int,
) -> Subject:
    """Choose images, attack them, and find the batch that the replica likes best."""
    order = np.random.default_rng(seed).permutation(len(source.pixels))[:count]
    images, truth = source.pixels[order], source.labels[order]
    own = _labels(module, images)
    moved = _fgsm(module, images, truth, epsilon)
    attacked = moved[(_labels(module, moved) != truth) & (own == truth)]
    onnx = models.to_onnx(module, shape)
    info = ModelInfo(name, "input", "logits", "FP32", shape, 10, (0.0, 1.0), OutputKind.LOGITS, name)
    replica = OnnxBackend(onnx, info)
    batch = best_batch(replica).batch
    best, least_s = _best(replica)
    replica.close()
    return Subject(name, module, onnx, info, images, attacked, own, least_s, batch, best)


def _best(replica: OnnxBackend) -> tuple[int, float]:
    """The batch in which an evaluation takes least, and the seconds that it takes."""
    times = {}
    for batch in BUCKETS:
        copies = torch.zeros(batch, *replica.info.shape)
        replica.logits(copies)
        times[batch] = min(timeit.repeat(partial(replica.logits, copies), number=1, repeat=_TRIES)) / batch
    best = min(times, key=times.__getitem__)
    return best, times[best]


@torch.no_grad()
def _labels(module: nn.Module, images: Float32Array) -> IntArray:
    found: IntArray = module(torch.from_numpy(images)).argmax(dim=1).numpy()
    return found


def _fgsm(module: nn.Module, images: Float32Array, truth: IntArray, epsilon: float) -> Float32Array:
    """One step along the sign of the loss's gradient (Goodfellow et al., 2015)."""
    x = torch.from_numpy(images).clone().requires_grad_()
    (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(module(x), torch.from_numpy(truth)), x)
    moved: Float32Array = (x.detach() + epsilon * gradient.sign()).clamp(0, 1).numpy()
    return moved


@contextmanager
def engine(
    subject: Subject, specs: Sequence[DetectorSpec], *, network: Backend | None = None, queue: int = 4096
) -> Iterator[Engine]:
    """Guard's engine on a subject, as a sidecar starts it."""
    backends: dict[str, Backend] = {MODEL: subject.replica()}
    if network is not None:
        backends[NETWORK] = network
    made = Engine(detectors=build_detectors(specs), backends=backends, secret=b"benchmark", max_queued_items=queue)
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_S)  # as a sidecar does
    made.start()
    try:
        yield made
    finally:
        made.stop()
        sys.setswitchinterval(before)
        backends[MODEL].close()


class Submits(Protocol):
    """What takes inputs: an engine, or what stands for one elsewhere."""

    def submit(self, x: Float32Array, *, deadline_s: float | None = None) -> Future[Screening]:
        """Hand in one input."""
        ...


def screen(engine: Submits, images: Iterable[Float32Array]) -> list[Screening]:
    """Screen images with as many in flight as keep the engine busy."""
    waiting: deque[Future[Screening]] = deque()
    done = []
    for image in images:
        if len(waiting) == _WINDOW:
            done.append(waiting.popleft().result())
        waiting.append(engine.submit(image))
    done.extend(future.result() for future in waiting)
    return done


def evaluations(screened: Iterable[Screening]) -> int:
    """Evaluations of the guarded model that were spent."""
    return sum(sum(screening.spent.values()) for screening in screened)


def evaluation_s(subject: Subject, replica: OnnxBackend, calls: int) -> float:
    """Seconds that one evaluation takes at the best batch size, over so many full batches."""
    batch = torch.zeros(subject.best, *subject.info.shape)
    started = time.perf_counter()
    for _ in range(calls):
        replica.logits(batch)
    return (time.perf_counter() - started) / (calls * subject.best)
