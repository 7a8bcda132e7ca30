"""Training a denoiser in front of a model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from guard.model.onnx import OnnxBackend
from guard.offline.denoiser import train_denoiser
from guard.offline.progress import quiet
from guard.profile.spec import NetworkSpec
from guard.screen.backends import network_backend
from guard.values import Float32Array
from tests.model.parts import INFO, linear_onnx
from tests.support.digits import load_data
from tests.support.profiles import digits_backend

NOISE = 0.25


def scores(content: bytes, x: Float32Array) -> Float32Array:
    """What the detector says of inputs."""
    backend = network_backend(NetworkSpec(on="reconstruction", sha256=""), content, digits_backend().info)
    answers: Float32Array = backend.logits(torch.from_numpy(x)).numpy()
    backend.close()
    return answers[:, 1] - answers[:, 0]


def test_what_is_near_a_boundary_moves() -> None:
    """Benign images keep their answer when they are reconstructed; those that noise gave another label don't."""
    data = load_data()
    content = train_denoiser(digits_backend(), data.calibration[0], NOISE, seed=0, reporter=quiet(), steps=300)
    assert content is not None
    images, _ = data.test
    benign = scores(content, images[:200])
    backend = digits_backend()
    own = backend.logits(torch.from_numpy(images)).argmax(dim=1).numpy()
    noisy = np.clip(images + 0.3 * np.random.default_rng(0).standard_normal(images.shape), 0, 1).astype(np.float32)
    changed = noisy[backend.logits(torch.from_numpy(noisy)).argmax(dim=1).numpy() != own]
    assert len(changed) > 20
    assert (scores(content, changed) > np.quantile(benign, 0.95)).mean() > 0.7


def test_it_repeats() -> None:
    """The same seed trains the same denoiser."""
    images = load_data().calibration[0][:100]
    made = [train_denoiser(digits_backend(), images, NOISE, seed=3, reporter=quiet(), steps=5) for _ in range(2)]
    assert made[0] == made[1]


def test_what_is_not_denoised(tmp_path: Path) -> None:
    """There is none for what are no images, nor for images of an odd size."""
    vector = OnnxBackend(linear_onnx(tmp_path / "m.onnx").read_bytes(), INFO)
    assert train_denoiser(vector, np.zeros((4, 4), np.float32), NOISE, seed=0, reporter=quiet(), steps=1) is None
    odd = digits_backend()
    odd.info = replace(odd.info, shape=(1, 7, 8))
    assert train_denoiser(odd, np.zeros((4, 1, 7, 8), np.float32), NOISE, seed=0, reporter=quiet(), steps=1) is None
