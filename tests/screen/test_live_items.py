"""How many items are screened at once: on a device as many as fill its batches, in the engine that runs there."""

from __future__ import annotations

import pytest
import torch

from guard.profile import spec
from guard.screen.build import build_detectors
from guard.screen.engine import Engine
from guard.screen.live_items import LIVE_ITEMS, filling, live_items
from guard.screen.trial import MODEL, Detector
from tests.screen.parts import TIMEOUT_S, FakeBackend, HeldBackend, item, steady

GAUSSIAN = spec.Gaussian(sigma=0.5)


class OnGpu(FakeBackend):
    """A replica that says it is on a GPU; nothing is run."""

    device = torch.device("cuda")


def sensitivity(first_chunk: int, cap: int = 64) -> spec.SensitivitySpec:
    """A sequential test."""
    return spec.SensitivitySpec(mutation=GAUSSIAN, p0=0.02, p1=0.2, first_chunk=first_chunk, cap=cap)


def smoothing(first_chunk: int) -> spec.SmoothingSpec:
    """Another."""
    return spec.SmoothingSpec(sigma=0.5, radius=0.25, first_chunk=first_chunk)


@pytest.mark.parametrize(
    ("specs", "batch", "expected"),
    [
        ((sensitivity(8),), 512, 128),
        ((sensitivity(8), smoothing(4)), 512, 256),
        ((spec.ConfidenceSpec(), sensitivity(8)), 512, 128),
        ((sensitivity(7),), 512, 147),
        ((sensitivity(60, cap=3),), 512, 342),
        ((spec.ConfidenceSpec(),), 256, 512),
        ((sensitivity(8),), 32, LIVE_ITEMS),
    ],
    ids=["one", "smallest", "beside another", "rounded up", "a cap before", "none sequential", "small batch"],
)
def test_on_a_gpu(specs: tuple[spec.DetectorSpec, ...], batch: int, expected: int) -> None:
    """The smallest first chunks of so many items fill both batches, and never are there fewer than on a CPU."""
    assert live_items(None, build_detectors(specs), {MODEL: OnGpu(steady, batch=batch)}) == expected


def test_elsewhere() -> None:
    """On a CPU it is the usual number whatever the batch, and anywhere what is configured."""
    detectors: tuple[Detector, ...] = build_detectors([sensitivity(2)])
    assert live_items(None, detectors, {MODEL: FakeBackend(steady, batch=512)}) == LIVE_ITEMS
    assert live_items(3, detectors, {MODEL: OnGpu(steady, batch=512)}) == 3
    assert live_items(1000, detectors, {MODEL: FakeBackend(steady)}) == 1000


@pytest.mark.parametrize(("share", "full"), [(1.0, True), (0.25, False)], ids=["as derived", "a quarter of it"])
def test_batches_are_full(share: float, *, full: bool) -> None:
    """With as many items as derived first chunks alone fill batches; with fewer they do not."""
    detectors = build_detectors([sensitivity(2, cap=2)])  # nothing beyond the first chunk
    backend = HeldBackend(steady, batch=48)
    live = int(share * filling(backend.preferred_batch, detectors))
    engine = Engine(detectors=detectors, backends={MODEL: backend}, secret=b"s", max_live_items=live, on_device=True)
    engine.start()
    try:
        futures = [engine.submit(item(number % 5)) for number in range(200)]
        backend.release.set()
        for future in futures:
            future.result(TIMEOUT_S)
    finally:
        backend.release.set()
        engine.stop()
    assert (max(backend.sizes) == 48) is full
    assert full is (sum(size == 48 for size in backend.sizes) > len(backend.sizes) / 2)
