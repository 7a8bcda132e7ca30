"""The GPU benchmark in small, by the same code on the CPU."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import models
from benchmarks.engine import gpu
from benchmarks.engine.gpu_subject import Subject
from benchmarks.engine.gpu_table import write
from guard.model.torch import TorchBackend
from guard.values import ModelInfo, OutputKind


def test_measured_and_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every figure of a model is a number, in the units that its name says, and stands in the table and the JSON."""
    monkeypatch.setattr(gpu, "_LOAD_S", 0.5)
    images = np.kron(np.random.default_rng(0).random((4, 1, 7, 7), np.float32), np.ones((1, 1, 4, 4), np.float32))
    info = ModelInfo("LeNet-5", "input", "logits", "FP32", (1, 28, 28), 10, (0.0, 1.0), OutputKind.LOGITS, "lenet")
    module = models.lenet5()
    figures = list(gpu.measure(Subject(module, TorchBackend(module, info, batch=32), images, 4, 1)))
    names = [figure.measure for figure in figures]
    for part in ("rho", "requests/s", "evaluations/s", "p50", "p99", "one at a time", "fixed n", "sequential", "fp16"):
        assert any(part in name for name in names), part
    assert all(0 < figure.low <= figure.median <= figure.high for figure in figures)
    write(figures, {"gpu": "none"}, tmp_path)
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert len(found["figures"]) == len(figures)
    assert all(name in (tmp_path / "gpu.md").read_text() for name in names)
