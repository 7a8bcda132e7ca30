"""The GPU benchmark in small, by the same code on the CPU."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.engine import gpu, gpu_subject
from benchmarks.engine import subject as measured
from benchmarks.engine.gpu_subject import GRAPHS, HALF, LARGE, SERVED, Size, Subject
from benchmarks.engine.gpu_table import Figure, Missing, write

SMALL = Size(rounds=2, slow_rounds=1, cap=6, n=40, bucket=8, load_s=0.3)
MEASURED = ("rho", "requests/s", "evaluations/s", "p50", "p99")
REFERENCES = ("as published", "wald every copy", "Cohen", "ART", "Voracek", "squeezing", "detector network")


@pytest.fixture
def small(lenet: measured.Subject) -> Subject:
    """LeNet-5 with a few images."""
    return Subject(lenet.module, lenet.info, lenet.onnx, lenet.images[:4], 4, 1, SMALL)


def test_all_of_a_model(small: Subject, tmp_path: Path) -> None:
    """Every replica and every reference is measured, and stands in the table and the JSON; the bucket is the large's.

    The large model's name makes it one: its batch is the bucket, and its rho has the target.
    """
    large = replace(small, info=replace(small.info, name=LARGE))
    said: list[Figure | Missing] = []
    figures, missing = gpu.measure([large], said.append)
    assert said == figures
    assert not missing
    for how in (SERVED, SERVED + HALF, GRAPHS, GRAPHS + HALF):
        names = [figure.measure for figure in figures if figure.replica == how]
        assert all(any(part in name for name in names) for part in MEASURED), how
    beside = [figure.measure for figure in figures if figure.replica == SERVED]
    assert all(any(part in name for name in beside) for part in REFERENCES)
    assert sum(" / " in figure.replica for figure in figures) == 3
    assert all(0 < figure.low <= figure.median <= figure.high for figure in figures)
    assert [f.detail.split(";")[0] for f in figures if f.measure == "rho"] == ["bucket 8"] * 4
    assert [(f.replica, f.target) for f in figures if f.target is not None] == [
        (SERVED, 1.1),
        (SERVED, 50.0),
        (GRAPHS, 1.1),
    ]
    write(figures, missing, {"gpu": "none"}, tmp_path)
    found, table = json.loads((tmp_path / "gpu.json").read_text()), (tmp_path / "gpu.md").read_text()
    assert len(found["figures"]) == len(figures)
    assert all(figure.measure in table for figure in figures)
    assert "not measured" not in table


def test_without_a_provider(small: Subject, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where ONNX Runtime does not know the device the table says so, and the references stand beside torch."""
    monkeypatch.setattr(gpu_subject, "providers", lambda _: None)
    parts = [part.replica for part in gpu.parts(small)]
    assert SERVED not in parts
    assert parts.count(GRAPHS) == 1 + len(REFERENCES) - 2
    figures, missing = gpu.measure([small], lambda _: None, budget_s=-1)
    assert not figures
    assert missing[0].replica == SERVED
    write(figures, missing, {"gpu": "none"}, tmp_path)
    assert "onnxruntime-gpu" in (tmp_path / "gpu.md").read_text()


def test_time_is_up(small: Subject, tmp_path: Path) -> None:
    """What is not begun in time is named in the table as not measured."""
    figures, missing = gpu.measure([small], lambda _: None, budget_s=-1)
    assert not figures
    assert len(missing) == len(list(gpu.parts(small)))
    write(figures, missing, {"gpu": "none"}, tmp_path)
    assert (tmp_path / "gpu.md").read_text().count("**not measured**") == len(missing)
