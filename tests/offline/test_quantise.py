"""Int8 replicas: when one is taken, and that the whole of a profile is then about it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from structlog.testing import capture_logs

from guard.app.models import load_models
from guard.config import ModelPolicy, Settings
from guard.errors import DataError, ProfileError
from guard.model.onnx import OnnxBackend
from guard.offline.calibrate import Options, calibrate
from guard.offline.quantise import FILE, LEAST_SPEEDUP, Variant, int8_variant
from guard.profile import store
from guard.screen.trial import MODEL
from tests.offline.parts import Ruled
from tests.support import digits
from tests.support.profiles import digits_backend, digits_profile

CLEAN = digits.load_data().calibration[0]


@pytest.fixture(scope="module")
def variant() -> Variant:
    """The digits model in 8-bit integers, however fast."""
    found = int8_variant(digits_backend(), CLEAN, least_speedup=0.0)
    assert found is not None
    return found


def test_it_agrees(variant: Variant) -> None:
    """It gives 99 % of clean samples the model's label, is another function, and what is said of it is true."""
    x = torch.from_numpy(CLEAN)
    ours, theirs = variant.backend.logits(x), digits_backend().logits(x)
    agreement = float((ours.argmax(dim=1) == theirs.argmax(dim=1)).double().mean())
    assert variant.spec.agreement == pytest.approx(agreement)
    assert agreement >= 0.99
    assert not torch.equal(ours, theirs)
    assert variant.spec.speedup > 0


def test_not_worth_it() -> None:
    """One that is not faster by enough is not taken, and the log says why."""
    with capture_logs() as logs:
        assert int8_variant(digits_backend(), CLEAN, least_speedup=1e9) is None
    (event,) = logs
    assert "slower" in event["event"]
    assert event["agreement"] > 0
    assert LEAST_SPEEDUP > 1


def test_it_disagrees() -> None:
    """One that was quantised on other inputs than it is asked about disagrees, and is not taken."""
    samples = np.concatenate([np.zeros((256, *CLEAN.shape[1:]), np.float32), CLEAN])
    with capture_logs() as logs:
        assert int8_variant(digits_backend(), samples, least_speedup=0.0) is None
    assert "labels differ" in logs[-1]["event"]


def test_not_quantisable() -> None:
    """A model that the quantiser can't take is left as it is, and the log says why."""
    backend = digits_backend()
    with capture_logs() as logs:
        broken = OnnxBackend(backend.content, replace(backend.info, datatype="FP16"))
        assert int8_variant(broken, CLEAN) is None
    assert "only FP32" in logs[0]["error"]


def test_needs_a_file() -> None:
    """Asked for without a model file, it is refused with what to do."""
    with pytest.raises(DataError, match="leave out --int8"):
        calibrate(Ruled(lambda x: x[:, 0] > 0, (4,)), np.zeros((200, 4), np.float32), Options(network=False, int8=True))


def test_a_sidecar_screens_with_it(variant: Variant, tmp_path: Path) -> None:
    """A profile with an int8 replica is screened with that replica, and bound to the model's own file all the same."""
    profile = replace(digits_profile(), replica=variant.spec, files={**digits_profile().files, FILE: variant.content})
    store.save(profile, tmp_path / "profile")
    policy = ModelPolicy(profile=tmp_path / "profile", model=digits.onnx_file())
    model = load_models(Settings(models={"digits": policy}), {})["digits"]
    try:
        x = torch.from_numpy(CLEAN[:16])
        assert torch.equal(model.backends[MODEL].logits(x), variant.backend.logits(x))
    finally:
        model.close()
    (tmp_path / "profile" / FILE).write_bytes(b"something else")
    with pytest.raises(ProfileError, match="was changed after calibration"):
        store.load(tmp_path / "profile")
