"""A model with its profile, and what makes one machine look like two."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from guard.doctor import around
from guard.profile import store
from tests.support.digits import load_data
from tests.support.loop import LoopThread
from tests.support.profiles import plain_profile


@pytest.fixture(scope="module")
def folder(digits_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits model with its profile, and the same model exported again, which has another fingerprint."""
    made: Path = tmp_path_factory.mktemp("doctor")
    (made / "digits.onnx").write_bytes(digits_onnx.read_bytes())
    (made / "secret").write_bytes(b"s" * 32)
    store.save(plain_profile(), made / "forgetful")
    known = load_data().calibration[0][:4]
    store.save(replace(plain_profile(), known_attacks=known), made / "profile")
    other = onnx.load(digits_onnx)
    weights = next(each for each in other.graph.initializer if each.data_type == onnx.TensorProto.FLOAT)
    weights.CopyFrom(onnx.numpy_helper.from_array(1 - onnx.numpy_helper.to_array(weights), weights.name))
    onnx.save(other, made / "other.onnx")
    return made


@pytest.fixture(scope="module")
def loop() -> Iterator[LoopThread]:
    """Where servers run."""
    with LoopThread() as thread:
        yield thread


@pytest.fixture(autouse=True)
def _another_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server on all addresses answers at this one, and one that is bound to 127.0.0.1 does not."""
    monkeypatch.setattr(around, "own_addresses", lambda: ["127.0.0.2"])
