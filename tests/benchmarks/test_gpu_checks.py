"""The checks before anything is measured on a GPU, here on the CPU: what is right passes, what is wrong does not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks import models
from benchmarks.engine import gpu_checks
from guard.values import ModelInfo, OutputKind

CPU = torch.device("cpu")
IMAGES = np.kron(np.random.default_rng(0).random((100, 1, 7, 7), np.float32), np.ones((1, 1, 4, 4), np.float32))
INFO = ModelInfo("LeNet-5", "input", "logits", "FP32", (1, 28, 28), 10, (0.0, 1.0), OutputKind.LOGITS, "lenet")


def test_replays_differ() -> None:
    """Graphs read the copies that were made for them, with other noise for each input."""
    (line,) = gpu_checks.check_replays(CPU)
    assert "all differ" in line


def test_half_agrees() -> None:
    """A model in fp16 agrees with itself in fp32 as well as calibration asks."""
    (line,) = gpu_checks.check_half(models.lenet5(), INFO, IMAGES)
    assert "of 100 labels as in fp32" in line


class Odd(nn.Module):
    """A model that is another one in fp16: by `shift` of its first logit, and `steepness` of all."""

    def __init__(self, shift: float, steepness: float) -> None:
        super().__init__()
        self.net = models.lenet5()
        self.shift, self.steepness = shift, steepness

    def forward(self, x: Tensor) -> Tensor:
        """Classify."""
        logits = self.net(x)
        if logits.dtype is torch.float16:
            logits = self.steepness * logits
            logits[:, 0] += self.shift
        return logits


@pytest.mark.parametrize(
    ("odd", "says"), [(Odd(100.0, 1.0), "the label of fp32"), (Odd(0.0, 2.0), "scores in fp16 are")]
)
def test_half_differs(odd: Odd, says: str) -> None:
    """Other labels in fp16, or other scores with the same labels, stop the benchmark."""
    with pytest.raises(SystemExit, match=says):
        list(gpu_checks.check_half(odd, replace(INFO, fingerprint="odd"), IMAGES))


def test_all_checks() -> None:
    """All of them together, as `make bench-gpu` runs them where there is no GPU."""
    lines = list(gpu_checks.run(CPU, (IMAGES, IMAGES)))
    assert len(lines) == 8
    assert "a replayed input meets the same noise" in lines
    assert "a replayed request gets the same answers" in lines
    assert "ONNX Runtime, bound once to batches where they are, agrees with torch" in lines
