"""Row 7: squeezing and a detector network in ART, one request at a time, beside the engine under load."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

import numpy as np
import torch

from benchmarks.engine.bench import Bench
from benchmarks.engine.clock import Cost, seconds
from benchmarks.engine.subject import engine, screen
from benchmarks.engine.table import Row
from benchmarks.references.art_detectors import ArtNetwork, ArtSqueezing
from guard.model.backend import Backend
from guard.model.sweep import best_batch
from guard.offline import nets
from guard.offline.residual import ResidualNet
from guard.profile import spec
from guard.screen.backends import network_backend
from guard.values import Evidence

_MEDIAN_PX: Final = 3
"""On both sides: the paper's is of 2x2 pixels, which OpenCV does not have."""
_COMPARED = 50


def squeezing(bench: Bench) -> Iterator[Row]:
    """One bit or five, and a median, beside the input itself."""
    lenet = bench.subject.name == "LeNet-5"
    bits = 1 if lenet else 5
    design = spec.SqueezingSpec(squeezers=(spec.BitDepth(bits=bits), spec.Median(size=_MEDIAN_PX)))
    art = ArtSqueezing(bench.subject.module, bench.subject.info.shape, 10, bits=bits, median_px=_MEDIAN_PX)
    yield _detector(
        bench,
        "squeezing, ART",
        35 if lenet else 4,
        score=art.score,
        design=design,
        spent=1 + len(design.squeezers),
        beside=None,
    )


def network(bench: Bench) -> Iterator[Row]:
    """A network of the kind that calibration trains. What it costs does not hang on its weights, so it has none yet."""
    lenet = bench.subject.name == "LeNet-5"
    shape = bench.subject.info.shape
    net = ResidualNet(shape, 2, bench.subject.info.bounds).eval()
    art = ArtNetwork(net, shape)
    design = spec.NetworkSpec(sha256="")
    backend = network_backend(design, nets.to_onnx(net, shape), bench.subject.info)
    backend.preferred_batch = best_batch(backend).batch  # as a sidecar does at its start
    batch = torch.zeros(backend.preferred_batch, *shape)
    beside = partial(_evaluation_s, backend, batch)
    yield _detector(
        bench,
        "detector network, ART",
        18 if lenet else 4,
        score=art.score,
        design=design,
        spent=1,
        beside=beside,
        network=backend,
    )
    backend.close()


def _evaluation_s(backend: Backend, batch: torch.Tensor) -> float:
    calls = 20
    return seconds(lambda: [backend.logits(batch) for _ in range(calls)]) / (calls * len(batch))


def _detector(
    bench: Bench,
    compare: str,
    target: float,
    *,
    score: Callable[[torch.Tensor], float],
    design: spec.DetectorSpec,
    spent: int,
    beside: Cost | None,
    network: Backend | None = None,
) -> Row:
    count = 20 * bench.size.slow_images

    def reference() -> float:
        images = [torch.from_numpy(image) for image in bench.images(count)]
        return seconds(lambda: [score(image) for image in images]) / count

    with engine(bench.subject, (design,), network=network) as running:

        def ours() -> float:
            images = bench.images(4 * count)
            return seconds(lambda: screen(running, images)) / len(images)

        shown = bench.images(_COMPARED)
        scores = [f.score for s in screen(running, shown) for f in s.findings if isinstance(f, Evidence)]
        theirs = [score(torch.from_numpy(image)) for image in shown]
        found = bench.ratio(reference, ours, beside=beside)
    apart = float(np.abs(np.subtract(scores, theirs)).max())
    detail = (
        f"one request at a time there, 128 in flight here; scores of {_COMPARED} images differ by {apart:.2g} at most"
    )
    return bench.row(7, compare, target, found, detail, spent=spent)
