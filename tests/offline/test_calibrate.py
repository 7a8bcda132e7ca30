"""Calibration: what the samples are used for, what comes out, and that the false-positive rate holds."""

from __future__ import annotations

import json
import re
import threading
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from rich.console import Console
from scipy.stats import betabinom
from structlog.testing import capture_logs
from torch import Tensor

from guard.decide.judge import Judge
from guard.errors import ConfigError, DataError, RateUnsupported
from guard.model.onnx import OnnxBackend, inspect_onnx
from guard.offline.calibrate import LEAST_SAMPLES, calibrate
from guard.offline.options import Budget, Options
from guard.offline.perturb import FAMILIES
from guard.offline.scoring import running_engine, screen_all
from guard.offline.show import print_profile
from guard.profile import spec, store
from guard.profile.profile import Profile
from guard.values import OutputKind, Verdict
from tests.offline.parts import Ruled
from tests.support import digits
from tests.support.profiles import digits_backend, digits_profile

SHAPE = (4,)
QUICK = Options(network=False)


def samples(n: int) -> np.ndarray:
    """Samples (n, 4) of which each holds one number only, its own, none of them a level of 8 bits or fewer."""
    return np.repeat((np.arange(n, dtype=np.float32)[:, None] + np.float32(0.37)) / n, 4, axis=1)


class Telling(Ruled):
    """A replica whose margin is the sample's number plus one. It notes what it is asked before samples are scored."""

    def __init__(self) -> None:
        super().__init__(lambda x: x[:, 0] > 0, SHAPE)
        self.tuned_on: set[float] = set()
        self._scoring = False

    def logits(self, x: Tensor) -> Tensor:
        """Classify."""
        self._scoring |= threading.current_thread().name.startswith("guard-")
        if not self._scoring:
            self.tuned_on.update(x[:, 0].tolist())
        return torch.stack([x[:, 0], -torch.ones(len(x))], dim=1)


def identify(profile: Profile, n: int) -> tuple[set[int], set[int]]:
    """Indices of the samples of the reference and of the calibration split, read off `Telling`'s margins."""
    parts = (profile.reference, profile.calibration)
    found = [np.round((-part.scores["confidence"] - 1) * n - 0.37).astype(int).tolist() for part in parts]
    return set(found[0]), set(found[1])


def test_no_sample_serves_two_purposes() -> None:
    """Tuning, reference and calibration each have samples of their own, 40, 20 and 40 in a hundred."""
    n, backend = 200, Telling()
    profile = calibrate(backend, samples(n), QUICK)
    reference, calibration = identify(profile, n)
    tuned_on = {i for i, value in enumerate(samples(n)[:, 0].tolist()) if value in backend.tuned_on}
    assert profile.provenance.samples == {"fit": 80, "reference": 40, "calibration": 80}
    assert (len(tuned_on), len(reference), len(calibration)) == (80, 40, 80)
    assert tuned_on | reference | calibration == set(range(n))


def contents(profile: Profile) -> dict[str, Any]:
    """All that a profile holds but its date, in a form that can be compared."""
    parts = {"reference": profile.reference, "calibration": profile.calibration}
    scores = {f"{part} {name}": v.tobytes() for part, b in parts.items() for name, v in b.scores.items()}
    canaries = profile.canaries.inputs.tobytes(), profile.canaries.logits.tobytes()
    return {"detectors": profile.detectors, "canaries": canaries, "files": dict(profile.files)} | scores


def test_the_same_seed_gives_the_same_profile() -> None:
    """Calibration can be repeated, the network's training included; another seed splits and trains otherwise."""
    made = []
    for seed in (5, 5, 6):
        state = torch.random.get_rng_state()
        budget = Budget(surrogate_steps=5, network_steps=5, activation_steps=5, auxiliary_steps=5)
        options = Options(seed=seed, budget=budget, mutations=("uniform",))
        made.append(calibrate(Telling(), samples(LEAST_SAMPLES), options))
        assert torch.equal(torch.random.get_rng_state(), state)  # nor does it touch anyone else's draws
    first, again, other = map(contents, made)
    assert first == again
    assert first["files"] != other["files"]
    assert identify(made[0], LEAST_SAMPLES) != identify(made[2], LEAST_SAMPLES)


def test_false_positive_rate_on_held_out_digits() -> None:
    """Digits that no one has seen are flagged at the rate asked for, as far as 319 calibration samples can tell.

    Of m new inputs a number is flagged that is beta-binomial, and too many or too few of them once in a thousand.
    """
    profile, images = digits_profile(), digits.load_data().test[0]
    n, m, rate = len(profile.calibration), len(images), 0.05
    judge = Judge(profile, false_positive_rate=rate)
    with running_engine(digits_backend(), profile.detectors, profile.files, secret=bytes(32)) as engine:
        screened = list(screen_all(engine, images))
    flagged = sum(judge.judge(each).verdict is Verdict.ADVERSARIAL for each in screened)
    below = int(rate * (n + 1))
    expected = betabinom(m, below, n + 1 - below)
    assert expected.sf(flagged - 1) > 0.001
    assert expected.cdf(flagged) > 0.001


def test_a_profile_is_whole(tmp_path: Path) -> None:
    """Benign digits leave a score for every detector, all of them finite, and a manifest that is strict JSON."""
    profile = digits_profile()
    networks = ("network", "activations", "reconstruction", "auxiliary")
    assert profile.scoring == ("confidence", *networks, "squeezing", "sensitivity_gaussian")
    for part in (profile.reference, profile.calibration):
        assert set(part.scores) == set(profile.scoring)
        assert all(np.isfinite(scores).all() for scores in part.scores.values())
        assert part.groups is not None
        unchanged, *kinds = np.bincount(part.groups)
        assert len(kinds) == len(profile.conditions)
        assert abs(unchanged - sum(kinds)) <= 1
        assert max(kinds) - min(kinds) <= 1
    np.testing.assert_allclose(
        digits_backend().logits(torch.from_numpy(profile.canaries.inputs)), profile.canaries.logits, atol=1e-5
    )
    assert profile.provenance.versions.keys() >= {"python", "torch", "numpy"}
    assert 0 <= profile.provenance.measured["mean_label_change_rate_gaussian"] < 0.2
    store.save(profile, tmp_path)
    json.loads((tmp_path / store.MANIFEST).read_text(), parse_constant=pytest.fail)


def test_noise_of_sensitivity_and_certificate() -> None:
    """Certificates have the strongest noise that benign inputs bear; sensitivity that, or weaker that tells more."""
    (smoothing,) = (each for each in digits_profile().detectors if isinstance(each, spec.SmoothingSpec))
    (sensitivity,) = (each for each in digits_profile().detectors if isinstance(each, spec.SensitivitySpec))
    assert isinstance(sensitivity.mutation, spec.Gaussian)
    assert 0 < sensitivity.mutation.sigma <= smoothing.sigma
    assert smoothing.radius == pytest.approx(0.5 * smoothing.sigma)


def test_options() -> None:
    """Without a network there is none; each further mutation is a detector; the radius is in deviations of noise."""
    options = Options(network=False, mutations=("uniform", "shift_rotate", "contrast_brightness"), radius_sigmas=0.8)
    profile = calibrate(digits_backend(), digits.load_data().calibration[0][:200], options)
    kinds = ("gaussian", "uniform", "shift_rotate", "contrast_brightness")
    assert profile.scoring == ("confidence", "squeezing", *(f"sensitivity_{kind}" for kind in kinds))
    assert not profile.files
    (smoothing,) = (each for each in profile.detectors if isinstance(each, spec.SmoothingSpec))
    assert smoothing.radius == pytest.approx(0.8 * smoothing.sigma)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        (Options(network=False, mutations=("blur",)), DataError, "no mutation is called 'blur': choose uniform"),
        (Options(network=False, mutations=("shift_rotate",)), ConfigError, "shift_rotate needs images.*leave it out"),
        (Options(network=False, radius_sigmas=5), ConfigError, "a radius of .*3 deviations of the noise"),
    ],
)
def test_impossible_options(options: Options, error: type[Exception], says: str) -> None:
    """What can't be done with this model says what to choose instead."""
    with pytest.raises(error, match=says):
        calibrate(Telling(), samples(LEAST_SAMPLES), options)


def test_probabilities_are_recognised(tmp_path: Path) -> None:
    """A model that ends in a softmax is seen to, and scores as the one without; so it is when calibrated again."""
    model = onnx.load(digits.onnx_file())
    model.graph.node.append(onnx.helper.make_node("Softmax", ["logits"], ["p"], axis=1))
    model.graph.output.append(onnx.helper.make_tensor_value_info("p", onnx.TensorProto.FLOAT, ["batch", 10]))
    del model.graph.output[0]
    onnx.save(model, tmp_path / "soft.onnx")
    info = inspect_onnx(tmp_path / "soft.onnx", name="soft", bounds=(0.0, 1.0), dims=(1, 8, 8))
    backend = OnnxBackend((tmp_path / "soft.onnx").read_bytes(), info)
    images = digits.load_data().calibration[0][:LEAST_SAMPLES]
    plain = calibrate(digits_backend(), images, QUICK)
    for _ in range(2):
        profile = calibrate(backend, images, QUICK)
        assert profile.model.output_kind is OutputKind.PROBABILITIES
        assert plain.model.output_kind is OutputKind.LOGITS
        soft, hard = (each.calibration.scores["confidence"] for each in (profile, plain))
        np.testing.assert_allclose(soft, hard, rtol=1e-3, atol=1e-3)


def test_a_model_that_answers_nan() -> None:
    """A model without finite answers to clean samples is refused at once, with what is likely wrong."""
    backend = Telling()
    backend.logits = lambda x: torch.full((len(x), 2), torch.nan)  # type: ignore[method-assign]
    with pytest.raises(DataError, match="'ruled' answers NaN or infinity for clean samples: check that they are"):
        calibrate(backend, samples(LEAST_SAMPLES))


def test_too_few_samples() -> None:
    """One sample fewer than the least is refused; those named for a rate of 1 % support it, two fewer don't."""
    with pytest.raises(DataError, match=r"149 clean samples .* needs 150; 248 for a false-positive rate of 1 %"):
        calibrate(Telling(), samples(LEAST_SAMPLES - 1), QUICK)
    assert len(calibrate(Telling(), samples(LEAST_SAMPLES), QUICK).calibration) == 60
    Judge(calibrate(Telling(), samples(248), QUICK), false_positive_rate=0.01)
    with pytest.raises(RateUnsupported):
        Judge(calibrate(Telling(), samples(246), QUICK), false_positive_rate=0.01)


def test_what_has_learnt_nothing_is_told() -> None:
    """What each detector catches alone is in the profile, and a network that was not trained is warned of."""
    left_out = tuple(family for family in FAMILIES if family != "iterated")
    budget = Budget(network_steps=1, activation_steps=150, denoiser_steps=1, auxiliary_steps=150)
    with capture_logs() as logs:
        made = calibrate(digits_backend(), digits.load_data().calibration[0], Options(budget=budget, left_out=left_out))
    caught = made.provenance.caught_alone
    assert set(caught) == set(made.scoring)
    assert [each["detector"] for each in logs if "learnt nothing" in each["event"]] == ["network"]
    assert caught["network"] < 0.1 < caught["activations"]
    printed = StringIO()
    print_profile(Console(file=printed, width=300), made)
    assert re.search(rf"activations .* {caught['activations']:.0%}", printed.getvalue())
