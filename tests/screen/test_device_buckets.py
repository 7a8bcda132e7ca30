"""The engine with copies made in a replica's own memory and run in buckets, which changes no finding."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from guard.model.buckets import Capture, plain
from guard.model.onnx import OnnxBackend
from guard.model.torch import TorchBackend
from guard.profile import spec
from guard.screen.build import build_detectors
from guard.screen.engine import Engine
from guard.screen.trial import MODEL
from guard.values import Evidence, Finding, Float32Array
from tests.model.parts import INFO, linear_onnx
from tests.screen.parts import TIMEOUT_S, item, model_info, pixels, untimed

GAUSSIAN = spec.Gaussian(sigma=0.5)
SPECS = (
    spec.ConfidenceSpec(),
    spec.SensitivitySpec(mutation=GAUSSIAN, p0=0.02, p1=0.2),
    spec.SmoothingSpec(sigma=0.5, radius=0.25),
)


class Pixels(nn.Module):
    """`pixels` as a module, whose answer rests on its row only, bit by bit; it keeps the batches that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        """Keep the batch, and answer."""
        self.batches.append(x.clone())
        return pixels(x)


def screen(
    module: Pixels, numbers: tuple[int, ...], *, capture: Capture | None, batch: int
) -> list[tuple[int | None, tuple[Finding, ...]]]:
    """Screen items together in one engine with copies made on the device."""
    backend = TorchBackend(module, model_info(), batch=batch, capture=capture)
    engine = Engine(
        detectors=build_detectors(SPECS), backends={MODEL: backend}, secret=b"s", max_live_items=5, on_device=True
    )
    engine.start()
    try:
        futures = [engine.submit(item(number)) for number in numbers]
        return [untimed(future.result(TIMEOUT_S)) for future in futures]
    finally:
        engine.stop()


@cache
def alone(number: int) -> tuple[int | None, tuple[Finding, ...]]:
    """What an item gets by itself, without buckets."""
    return screen(Pixels(), (number,), capture=None, batch=32)[0]


@pytest.mark.parametrize("batch", [1, 3, 16, 24, 256])
def test_buckets_change_nothing(batch: int) -> None:
    """Findings are those without buckets, whatever old copies fill a bucket up; only a few sizes are ever run."""
    module = Pixels()
    found = screen(module, tuple(range(1, 9)), capture=plain, batch=batch)
    assert found == [alone(number) for number in range(1, 9)]
    sizes = {len(rows) for rows in module.batches}
    assert sizes <= {1, 2, 4, 8, 16, 32, 64, 128, batch}
    assert len({label for label, _ in found}) > 1


def noise(module: Pixels, x: Float32Array) -> Tensor:
    """The noise in what a module was given: rows near `x` that are not `x` itself."""
    rows = torch.cat(module.batches)
    rows = rows[(rows[:, 0] - float(x[0])).abs() < 50]
    return rows[(rows != torch.from_numpy(x)).any(dim=1)] - torch.from_numpy(x)


def test_noise_is_new_in_each_run() -> None:
    """The same bucket run for two inputs has other noise each time; a replayed input has the same again."""
    module = Pixels()
    screen(module, (1, 2), capture=plain, batch=16)
    one, other = (noise(module, item(number)).unique(dim=0) for number in (1, 2))
    assert min(len(one), len(other)) >= 8
    differences = (one[:, None] - other[None]).abs().amax(dim=2)
    assert float(differences.min()) > 1e-3
    again = Pixels()
    screen(again, (1,), capture=plain, batch=16)
    np.testing.assert_array_equal(noise(again, item(1)).unique(dim=0), one)


@pytest.mark.parametrize("batch", [1, 24, 64])
def test_bound_onnx(tmp_path: Path, batch: int) -> None:
    """ONNX Runtime, bound once to each bucket of the batches that copies are made in, finds what it finds unbound."""
    content = linear_onnx(tmp_path / "m.onnx").read_bytes()
    inputs = np.random.default_rng(3).uniform(-1, 1, (6, 4)).astype(np.float32)
    found = []
    for bound in (True, False):
        backend = OnnxBackend(content, INFO, batch=batch, bound=bound)
        engine = Engine(detectors=build_detectors(SPECS), backends={MODEL: backend}, secret=b"s", on_device=True)
        engine.start()
        try:
            found.append([untimed(future.result(TIMEOUT_S)) for future in [engine.submit(x) for x in inputs]])
        finally:
            engine.stop()
            backend.close()
    for one, other in zip(*found, strict=True):
        assert one[0] == other[0]
        assert [type(finding) for finding in one[1]] == [type(finding) for finding in other[1]]
        scores = [[f.score for f in each[1] if isinstance(f, Evidence)] for each in (one, other)]
        np.testing.assert_allclose(*scores, atol=1e-5)
