"""Models of every data type and layout, calibrated and screened: each as the same model in FP32 and channels first."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from guard.datatypes import held
from guard.model import inner
from guard.model.onnx import OnnxBackend
from guard.model.torch import TorchBackend
from guard.offline.calibrate import LEAST_SAMPLES, calibrate
from guard.offline.options import Budget, Options
from guard.offline.perturb import FAMILIES
from guard.offline.scoring import running_engine, screen_all
from guard.offline.view import View
from guard.offline.whitebox import white_box
from guard.profile import spec
from guard.profile.profile import Profile
from guard.values import Evidence, Float32Array, Layout, ModelInfo, OutputKind, Screening
from tests.support import digits
from tests.support.variants import VARIANTS, Variant

LEFT_OUT = tuple(FAMILIES.keys() - {"single_step", "iterated", "patch", "spatial"})
COARSEST = 2 / 256
"""Of the range: what bfloat16 keeps near 1, and twice what 8 bits keep."""


@dataclass(frozen=True)
class Calibrated:
    """A model of a variant and its profile."""

    variant: Variant
    backend: OnnxBackend
    profile: Profile

    def screen(self, images: Float32Array) -> list[Screening]:
        """Screen digits (n, 1, 8, 8) in 0..1, as the model's clients send them."""
        sent = held(self.variant.datatype, self.variant.samples(images))
        profile = self.profile
        with running_engine(self.backend, profile.detectors, profile.files, secret=b"the same noise") as engine:
            return list(screen_all(engine, sent))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the models are."""
    return tmp_path_factory.mktemp("variants")


@functools.cache
def calibrated(name: str, folder: Path) -> Calibrated:
    """Calibrate a variant with all detectors but networks."""
    variant = VARIANTS[name]
    backend = variant.backend(folder / f"{name}.onnx")
    samples = variant.samples(digits.load_data().calibration[0][:LEAST_SAMPLES])
    options = Options(network=False, mutations=("shift_rotate",))
    return Calibrated(variant, backend, calibrate(backend, samples, options))


def scores(screenings: list[Screening], detector: str) -> Float32Array:
    """What a detector scored."""
    found = [f.score for s in screenings for f in s.findings if isinstance(f, Evidence) and f.detector == detector]
    return np.array(found, np.float32)


@pytest.mark.parametrize("name", VARIANTS)
def test_calibrated_and_screened(folder: Path, name: str) -> None:
    """Data type and layout are seen to; labels, scores and the noise chosen are those of the FP32 model."""
    plain, other = calibrated("fp32", folder), calibrated(name, folder)
    info, span = other.profile.model, other.variant.bounds[1] - other.variant.bounds[0]
    assert (info.datatype, info.layout) == (
        other.variant.datatype,
        Layout.HWC if other.variant.channels_last else Layout.CHW,
    )
    assert other.profile.scoring == plain.profile.scoring
    sigmas = [
        next(each.sigma for each in profile.detectors if isinstance(each, spec.SmoothingSpec)) / scale
        for profile, scale in ((plain.profile, 1.0), (other.profile, span))
    ]
    assert sigmas[1] == pytest.approx(sigmas[0])
    images = digits.load_data().test[0][:24]
    mine, theirs = other.screen(images), plain.screen(images)
    assert [each.label for each in mine] == [each.label for each in theirs]
    np.testing.assert_allclose(scores(mine, "confidence"), scores(theirs, "confidence"), atol=0.4)
    np.testing.assert_allclose(scores(mine, "squeezing"), scores(theirs, "squeezing"), atol=0.1)
    moved, still = (scores(each, "sensitivity_shift_rotate") for each in (mine, theirs))
    assert np.corrcoef(moved, still)[0, 1] > 0.6  # each model has noise of its own


@pytest.mark.parametrize("name", VARIANTS)
def test_samples_are_what_the_data_type_holds(folder: Path, name: str) -> None:
    """Canaries are values that a client can send; inputs seen at 8 bits come back as such values, too."""
    each = calibrated(name, folder)
    canaries = each.profile.canaries.inputs
    np.testing.assert_array_equal(held(each.variant.datatype, canaries), canaries)
    view = View(each.profile.model)
    back = view.own(view.view(canaries))
    np.testing.assert_array_equal(held(each.variant.datatype, back), back)
    span = each.variant.bounds[1] - each.variant.bounds[0]
    np.testing.assert_allclose(back, canaries, atol=COARSEST * span)


@pytest.mark.parametrize("name", VARIANTS)
def test_activations(folder: Path, name: str) -> None:
    """A model of any data type is looked into, and shows what the FP32 model does."""
    plain, other = calibrated("fp32", folder), calibrated(name, folder)
    images = digits.load_data().test[0][:8]
    found = []
    for each in (plain, other):
        samples = held(each.variant.datatype, each.variant.samples(images))
        opened = inner.looked_into(each.backend.content, each.profile.model, samples[:2])
        found.append(inner.features_of(opened, each.profile.model, samples))
    assert found[0].shape == found[1].shape
    np.testing.assert_allclose(found[1], found[0], atol=0.4)


@pytest.mark.parametrize("name", ["fp16", "fp64", "uint8", "int8", "uint8-nhwc"])
def test_gradients(folder: Path, name: str) -> None:
    """Calibration's attackers get the model itself with gradients, whatever its data type: in FP32."""
    each = calibrated(name, folder)
    module = white_box(each.backend.content, each.profile.model)
    x = torch.from_numpy(held(each.variant.datatype, each.variant.samples(digits.load_data().test[0][:16])))
    x.requires_grad_(True)
    logits = module(x)
    (gradient,) = torch.autograd.grad(logits.sum(), x)
    assert bool(gradient.any())
    torch.testing.assert_close(logits.detach(), each.backend.logits(x.detach()), atol=0.05, rtol=0.01)


def test_networks_of_an_integer_model_with_channels_last(folder: Path) -> None:
    """Both detector networks are trained for a model of bytes with channels last, and answer in the engine."""
    each = calibrated("uint8-nhwc", folder)
    samples = each.variant.samples(digits.load_data().calibration[0][:LEAST_SAMPLES])
    options = Options(
        budget=Budget(surrogate_steps=10, network_steps=40, activation_steps=40, auxiliary_steps=40), left_out=LEFT_OUT
    )
    profile = calibrate(each.backend, samples, options)
    assert {"network", "activations"} <= set(profile.scoring)
    images, labels = (part[:12] for part in digits.load_data().test)
    attacked = digits.attack(digits.trained_network(), images, labels)
    made = Calibrated(each.variant, each.backend, profile)
    benign, adversarial = (scores(made.screen(part), "network") for part in (images, attacked))
    assert np.median(adversarial) > np.median(benign)


def test_a_torch_module_of_integers() -> None:
    """A torch replica of an integer model sees copies as the served model would get them: rounded and clipped."""
    seen = []

    class Echo(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(x)
            return x[:, :2]

    info = ModelInfo("echo", "x", "y", "UINT8", (3,), 2, (0.0, 255.0), OutputKind.LOGITS, "ab")
    backend = TorchBackend(Echo(), info)
    answers = backend.logits(torch.tensor([[-3.2, 254.7, 300.0]]))
    assert seen[0].tolist() == [[0.0, 255.0, 255.0]]
    assert answers.tolist() == [[0.0, 255.0]]
