"""Plain calls of ONNX Runtime beside bound ones, in short."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks.engine import binding
from benchmarks.engine.subject import Subject
from guard.model.onnx import OnnxBackend


def test_measured_and_written(lenet: Subject, tmp_path: Path) -> None:
    """Both kinds of call are timed on the same batch, and the table has a line for each size of it."""
    shape = lenet.info.shape
    found = [binding.measure("LeNet-5", lenet.onnx, shape, rows, rounds=3, calls_s=1e-3) for rows in (1, 8)]
    for each, rows in zip(found, (1, 8), strict=True):
        assert (each.model, each.rows) == ("LeNet-5", rows)
        assert each.bound_us > 0
        assert 0 < each.low <= each.ratio <= each.high
    text = binding.write(found, {"commit": "0"}, tmp_path)
    assert text == (tmp_path / "binding.md").read_text()
    assert text.count("| LeNet-5 |") == 2
    assert [row["rows"] for row in json.loads((tmp_path / "binding.json").read_text())["rows"]] == [1, 8]


def test_what_is_bound_is_called_bound(lenet: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    """One side runs in buckets and the other does not; if they answer differently nothing is measured."""
    bound: list[bool] = []

    class Spoilt(OnnxBackend):
        """Of this test only: other tests' servers may be screening in this process."""

        def logits(self, x: Tensor) -> Tensor:
            bound.append(self._bind)
            return super().logits(x) + torch.tensor(float(self._bind))

    monkeypatch.setattr(binding, "OnnxBackend", Spoilt)
    with pytest.raises(AssertionError, match="answers otherwise"):
        binding.measure("LeNet-5", lenet.onnx, lenet.info.shape, 4, rounds=1, calls_s=1e-3)
    assert bound == [False, True]
