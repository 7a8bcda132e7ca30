"""A model whose screening takes more than anything else: ResNet-20 with a sequential detector."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from benchmarks import models
from benchmarks.wire.payloads import FIRST_STAGE, Payload, over_grpc, write_profile
from guard.profile import spec
from guard.values import Float32Array

HEAVY: Final = Payload("12 KB", "resnet20", models.RESNET20_SHAPE, 1, 0)
RATE: Final = 0.1
_DETECTORS = (*FIRST_STAGE, spec.SensitivitySpec(mutation=spec.Gaussian(sigma=0.1), p0=0.02, p1=0.1, alpha=1e-3))
_SAMPLES = 80
_SEED = 3


def write_heavy_model(folder: Path) -> Path:
    """Write the trained network."""
    path = folder / f"{HEAVY.model}.onnx"
    path.write_bytes(models.to_onnx(models.resnet20(), HEAVY.shape))
    return path


def write_heavy_profile(onnx: Path, folder: Path) -> Path:
    """Write a profile of few samples: what counts here is what an evaluation costs."""
    return write_profile(HEAVY, onnx, folder, _DETECTORS, _inputs(_SAMPLES))


def heavy_body() -> bytes:
    """A request."""
    return over_grpc(HEAVY, _inputs(1))


def _inputs(count: int) -> Float32Array:
    coarse = np.random.default_rng(_SEED).random((count, 3, 8, 8), np.float32)
    return np.repeat(np.repeat(coarse, 4, axis=2), 4, axis=3)
