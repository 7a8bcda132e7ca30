"""Replicas in fewer bits: when one is taken, and that the whole of a profile is then about it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from rich.console import Console
from structlog.testing import capture_logs

from guard.app.models import load_models
from guard.config import ModelPolicy, Settings
from guard.errors import DataError, ProfileError
from guard.model.onnx import OnnxBackend
from guard.offline.calibrate import calibrate
from guard.offline.nets import to_onnx
from guard.offline.options import Options, Precision, Reduced
from guard.offline.quantise import LEAST_SPEEDUP, Variant, fastest_variant
from guard.offline.show import print_profile
from guard.profile import store
from guard.screen.trial import MODEL
from guard.values import ModelInfo, OutputKind
from tests.offline.parts import Ruled
from tests.support import digits
from tests.support.profiles import digits_backend, digits_profile

CLEAN = digits.load_data().calibration[0]


@pytest.fixture(scope="module", params=["int8", "fp16"])
def variant(request: pytest.FixtureRequest) -> Variant:
    """The digits model in fewer bits, however fast."""
    found = fastest_variant(digits_backend(), CLEAN, request.param, least_speedup=0.0)
    assert found is not None
    assert found.spec.precision == request.param
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


def test_half_precision() -> None:
    """fp16 takes and answers float32, keeps its weights in half the bytes, and is as near as half precision allows."""
    backend = digits_backend()
    found = fastest_variant(backend, CLEAN, "fp16", least_speedup=0.0)
    assert found is not None
    model = onnx.load_from_string(found.content)
    ends = [*model.graph.input, *model.graph.output]
    assert {end.type.tensor_type.elem_type for end in ends} == {TensorProto.FLOAT}
    weights = [weight for weight in model.graph.initializer if len(weight.dims) > 1]
    assert {weight.data_type for weight in weights} == {TensorProto.FLOAT16}
    x = torch.from_numpy(CLEAN)
    torch.testing.assert_close(found.backend.logits(x), backend.logits(x), atol=0.05, rtol=0.01)


def test_the_fastest_is_taken() -> None:
    """Of those that earn their place the fastest is taken; asked for the model itself, nothing is made."""
    found = fastest_variant(digits_backend(), CLEAN, "auto", least_speedup=0.0)
    assert found is not None
    singly = {
        precision: fastest_variant(digits_backend(), CLEAN, precision, least_speedup=0.0)
        for precision in get_args(Reduced)
    }
    speedups = {each.spec.precision: each.spec.speedup for each in singly.values() if each is not None}
    assert len(speedups) == 2
    fast, slow = max(speedups, key=speedups.__getitem__), min(speedups.values())
    if slow < 0.7 * speedups[fast]:  # on a machine where they are as fast as each other, either may be taken
        assert found.spec.precision == fast
    assert fastest_variant(digits_backend(), CLEAN, "fp32", least_speedup=0.0) is None


@pytest.mark.parametrize(("precision", "events"), [("int8", 1), ("fp16", 1), ("auto", 2)])
def test_not_worth_it(precision: Precision, events: int) -> None:
    """One that is not faster by enough is not taken, and the log says why."""
    with capture_logs() as logs:
        assert fastest_variant(digits_backend(), CLEAN, precision, least_speedup=1e9) is None
    assert len(logs) == events
    for event in logs:
        assert "slower" in event["event"]
        assert event["agreement"] > 0
    assert LEAST_SPEEDUP > 1


def test_it_disagrees() -> None:
    """One that was quantised on other inputs than it is asked about disagrees, and is not taken."""
    samples = np.concatenate([np.zeros((256, *CLEAN.shape[1:]), np.float32), CLEAN])
    with capture_logs() as logs:
        assert fastest_variant(digits_backend(), samples, "int8", least_speedup=0.0) is None
    assert "labels differ" in logs[-1]["event"]


def test_out_of_range() -> None:
    """Where values leave the range of a precision the labels mean nothing: infinite answers are refused, and logged."""
    info = ModelInfo("linear", "input", "logits", "FP32", (4,), 3, (0.0, 1e38), OutputKind.LOGITS, "ab")
    backend = OnnxBackend(to_onnx(_steep(), (4,)), info)
    with capture_logs() as logs:
        assert fastest_variant(backend, np.full((200, 4), 1e38, np.float32), "fp16", least_speedup=0.0) is None
    assert "range of its precision" in logs[-1]["error"]


def _steep() -> torch.nn.Module:
    """A model whose first logit is the largest, and infinite where inputs are large."""
    module = torch.nn.Linear(4, 3)
    module.weight.data = torch.tensor([3.0, 2.0, 1.0])[:, None].expand(3, 4).clone()
    return module


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_not_convertible(precision: Precision) -> None:
    """A model that can't be converted is left as it is, and the log says why."""
    backend = digits_backend()
    with capture_logs() as logs:
        broken = OnnxBackend(backend.content, replace(backend.info, datatype="FP16"))
        assert fastest_variant(broken, CLEAN, precision) is None
    assert "only FP32" in logs[0]["error"]


@pytest.mark.parametrize("precision", ["auto", "int8", "fp16"])
def test_needs_a_file(precision: Precision) -> None:
    """Asked for without a model file, it is refused with what to do."""
    options = Options(network=False, precision=precision)
    with pytest.raises(DataError, match=f"--precision {precision} makes a replica from an ONNX file: name it with --m"):
        calibrate(Ruled(lambda x: x[:, 0] > 0, (4,)), np.zeros((200, 4), np.float32), options)


def test_a_sidecar_screens_with_it(variant: Variant, tmp_path: Path) -> None:
    """A profile with a replica of its own is screened with it, and bound to the model's own file all the same."""
    profile = replace(
        digits_profile(), replica=variant.spec, files={**digits_profile().files, variant.spec.file: variant.content}
    )
    store.save(profile, tmp_path / "profile")
    assert store.load(tmp_path / "profile").replica == variant.spec
    with (console := Console(width=120)).capture() as shown:
        print_profile(console, profile)
    assert f"{variant.spec.precision}, " in shown.get()
    policy = ModelPolicy(profile=tmp_path / "profile", model=digits.onnx_file())
    model = load_models(Settings(models={"digits": policy}), {})["digits"]
    try:
        x = torch.from_numpy(CLEAN[:16])
        assert torch.equal(model.backends[MODEL].logits(x), variant.backend.logits(x))
    finally:
        model.close()
    (tmp_path / "profile" / variant.spec.file).write_bytes(b"something else")
    with pytest.raises(ProfileError, match="was changed after calibration"):
        store.load(tmp_path / "profile")
