"""What the examples make for themselves the first time."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from rich.console import Console

from examples.prepare import OPTIONS, Files, prepare
from guard.demo.digits import load_digits
from guard.profile import store


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Files, str]:
    """The files, of a calibration without networks, which would take minutes; and what was said meanwhile."""
    said = io.StringIO()
    folder: Path = tmp_path_factory.mktemp("prepare") / "guard-example"
    return prepare(folder, Console(file=said), replace(OPTIONS, network=False)), said.getvalue()


def labels(model: Path, images: np.ndarray) -> np.ndarray:
    """What a model says of images."""
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {session.get_inputs()[0].name: images})
    return np.asarray(logits).argmax(axis=1)


def test_the_model_and_its_profile(made: tuple[Files, str]) -> None:
    """The classifier is right on digits that it was not trained on, and the profile is of that file."""
    files, said = made
    digits = load_digits(seed=0).held_out
    assert (labels(files.model, digits.images) == digits.labels).mean() > 0.95
    profile = store.load(files.profile)
    assert profile.model.name == files.model.stem == "digits"
    assert "confidence" in profile.scoring
    assert said  # who waits is told for what


def test_samples(made: tuple[Files, str]) -> None:
    """Forty digits are clean, and forty were attacked within the bound so that the model gets them wrong."""
    files, _ = made
    samples = np.load(files.samples)
    clean, attacked = samples["clean"], samples["attacked"]
    assert clean.shape == attacked.shape == (40, 1, 8, 8)
    digits = load_digits(seed=0).held_out
    known = {image.tobytes(): label for image, label in zip(digits.images, digits.labels, strict=True)}
    assert [known[image.tobytes()] for image in clean] == labels(files.model, clean).tolist()
    distances = np.abs(attacked[:, None] - digits.images[None]).max(axis=(2, 3, 4))
    nearest = distances.argmin(axis=1)
    assert distances.min(axis=1).max() <= 0.2 + 1 / 255
    assert (digits.labels[nearest] != labels(files.model, attacked)).mean() > 0.9


def test_once_is_enough(made: tuple[Files, str]) -> None:
    """Where it is all there nothing is made again, and nothing said."""
    files, _ = made
    before = {file: file.stat().st_mtime_ns for file in files.model.parent.rglob("*")}
    said = io.StringIO()
    assert prepare(files.model.parent, Console(file=said)) == files
    assert {file: file.stat().st_mtime_ns for file in files.model.parent.rglob("*")} == before
    assert not said.getvalue()
