"""How Guard starts, what keeps it from starting, and how it stops."""

from __future__ import annotations

import socket
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from guard.app import Sidecar
from guard.app.models import LoadedModel, load_model, load_models
from guard.config import Certify, Listen
from guard.errors import (
    AddressUnusable,
    BackendError,
    ConfigError,
    ProfileError,
    ProfileMismatch,
    RateUnsupported,
    SeveralProblems,
)
from guard.model.onnx import OnnxBackend
from guard.profile import store
from guard.profile.spec import SmoothingSpec
from tests.app.parts import NOWHERE, policy
from tests.support import digits
from tests.support.loop import LoopThread
from tests.support.ports import free_address
from tests.support.profiles import digits_backend, digits_profile
from tests.support.sidecars import client_of, embedded, running, settings, wait_until


def test_another_model_is_served(loop: LoopThread, profile: Path, tmp_path: Path) -> None:
    """In front of a model that is not the profile's Guard is not ready, says why, and lets nothing through."""
    other = onnx.load(digits.onnx_file())
    for tensor in other.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            weights = onnx.numpy_helper.to_array(tensor) * np.float32(1.5)
            tensor.CopyFrom(onnx.numpy_helper.from_array(weights, tensor.name))
    onnx.save(other, tmp_path / "other.onnx")
    with (
        embedded(loop, {"digits": tmp_path / "other.onnx"}) as address,
        running(loop, Sidecar(settings(address, {"digits": policy(profile)}))) as sidecar,
        client_of(sidecar.grpc_port) as client,
    ):
        (reason,) = wait_until(sidecar, ready=False, says="differs from the one in the profile")
        assert reason.startswith("digits: ")
        assert reason.endswith("calibrate again for the model that is served")
        seen = client.ask("digits", digits.load_data().test[0][:1])
        assert (seen.status, seen.verdict) == ("UNAVAILABLE", "unscreened")
        assert "the served model is another than the one in its profile" in seen.message


def test_an_unreachable_server(loop: LoopThread, profile: Path) -> None:
    """While its server was never reached, Guard says so to clients, and which server that is."""
    with (
        running(loop, Sidecar(settings(NOWHERE, {"digits": policy(profile)}))) as sidecar,
        client_of(sidecar.grpc_port) as client,
    ):
        wait_until(sidecar, ready=False, says="no inference server answers")
        seen = client.ask("digits", digits.load_data().test[0][:1])
        assert (seen.status, seen.verdict) == ("UNAVAILABLE", "unscreened")
        assert f"the inference server at {NOWHERE} does not answer" in seen.message


@pytest.mark.parametrize("busy", ["address", "admin_address"])
def test_a_failed_start_leaves_nothing_running(loop: LoopThread, profile: Path, busy: str) -> None:
    """Where a port is taken the error says so; threads and the other port are gone, and stopping is still fine."""
    free = free_address()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        listen = Listen(**({"address": free, "admin_address": free} | {busy: address}))
        before = _own_threads()
        sidecar = Sidecar(settings(NOWHERE, {"digits": policy(profile)}, listen=listen))
        with pytest.raises(AddressUnusable, match=f"can't listen on {address}.*set listen.{busy} to another"):
            loop.run(sidecar.start())
        assert _own_threads() <= before
        with socket.socket() as again:
            assert again.connect_ex(("127.0.0.1", int(free.partition(":")[2]))) != 0
        loop.run(sidecar.stop())


def _own_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("guard-")}


def test_stopping(loop: LoopThread, profile: Path) -> None:
    """Guard may be stopped twice, or before it started; its threads end and it reports why it is not ready."""
    before = _own_threads()
    never = Sidecar(settings(NOWHERE, {"digits": policy(profile)}))
    loop.run(never.stop())
    sidecar = Sidecar(settings(NOWHERE, {"digits": policy(profile)}))
    loop.run(sidecar.start())
    assert {thread.name for thread in _own_threads() - before} == {
        "guard-engine", "guard-evaluator", "guard-admin", "guard-selftest"
    }  # fmt: skip
    loop.run(sidecar.stop())
    loop.run(sidecar.stop())
    assert _own_threads() <= before
    assert "digits: the screening engine is not running" in sidecar.unready()


def other_replica() -> dict[str, Any]:
    """A replica of a model that is not the profile's."""
    backend = digits_backend()
    backend.info = replace(backend.info, fingerprint="00")
    return {"replicas": {"digits": backend}}


@pytest.mark.parametrize(
    ("choices", "arguments", "error", "says"),
    [
        ({"false_positive_rate": 1e-4}, dict, RateUnsupported, "model 'digits'.*calibrate with more clean samples"),
        ({"profile": Path("/nowhere")}, dict, ProfileError, "holds no profile.*guard calibrate"),
        ({"model": None}, dict, ConfigError, "needs `model`, the ONNX file"),
        ({"model": Path(__file__)}, dict, ProfileMismatch, "calibrated with another model than .*test_life.py"),
        ({}, other_replica, ProfileMismatch, "another model than the replica given"),
    ],
)
def test_what_is_wrong_is_found_before_a_port_is_opened(
    profile: Path, choices: dict[str, Any], arguments: Any, error: type[Exception], says: str
) -> None:
    """A profile, rate or model file that can't be used is an error of the constructor, which says what to do."""
    with pytest.raises(error, match=says):
        Sidecar(settings(NOWHERE, {"digits": policy(profile, **choices)}), **arguments())


def test_all_that_is_wrong_is_found_at_once(profile: Path, tmp_path: Path) -> None:
    """Problems of several models, and several of one, are one error, which has each and the first one's exit code."""
    models = {
        "a": policy(profile, false_positive_rate=1e-4, model=Path(__file__)),
        "b": policy(tmp_path, model=tmp_path / "gone.onnx"),
        "c": policy(profile),
    }
    with pytest.raises(SeveralProblems) as raised:
        Sidecar(settings(NOWHERE, models))
    assert [type(each) for each in raised.value.problems] == [
        RateUnsupported,
        ProfileMismatch,
        ProfileError,
        BackendError,
    ]
    assert str(raised.value).splitlines() == [str(each) for each in raised.value.problems]
    assert raised.value.exit_code == RateUnsupported.exit_code


class _Closed:
    """A replica that tells whether it was closed."""

    def __init__(self) -> None:
        self._backend = digits_backend()
        self.info = self._backend.info
        self.preferred_batch = self._backend.preferred_batch
        self.logits = self._backend.logits
        self.closed = 0

    def close(self) -> None:
        """Count it."""
        self.closed += 1


def test_a_replica_that_was_given_stays_the_callers(loop: LoopThread, profile: Path) -> None:
    """Guard closes what it opened, and leaves alone what it was given."""
    given = _Closed()
    loop.run(Sidecar(settings(NOWHERE, {"digits": policy(profile)}), replicas={"digits": given}).stop())
    assert given.closed == 0


@pytest.mark.parametrize("rate", [0.05, 1e-4])
def test_replicas_are_closed(profile: Path, rate: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each replica that was opened is closed: with its model, or at once if something else is wrong with that."""
    opened: list[object] = []
    closed: list[object] = []
    made, ended = OnnxBackend.__init__, OnnxBackend.close

    def make(self: OnnxBackend, *arguments: Any, **options: Any) -> None:
        made(self, *arguments, **options)
        opened.append(self)

    def end(self: OnnxBackend) -> None:
        ended(self)
        closed.append(self)

    monkeypatch.setattr(OnnxBackend, "__init__", make)
    monkeypatch.setattr(OnnxBackend, "close", end)
    model = load_model(settings(NOWHERE, {"digits": policy(profile, false_positive_rate=rate)}), "digits")
    assert isinstance(model, LoadedModel) is (rate == 0.05)
    if isinstance(model, LoadedModel):
        model.close()
    assert opened
    assert closed == opened


def test_a_secret_that_is_not_there(profile: Path, tmp_path: Path) -> None:
    """A noise secret that can't be read is an error, never a reason to draw another."""
    with pytest.raises(ConfigError, match=r"noise_secret_file .*gone can't be read .*correct it or leave it out"):
        Sidecar(settings(NOWHERE, {"digits": policy(profile)}, noise_secret_file=tmp_path / "gone"))


def test_certificates_need_a_detector(tmp_path: Path) -> None:
    """To require certificates of a profile that can't give any is refused: it would abstain on everything."""
    whole = digits_profile()
    kept = tuple(spec for spec in whole.detectors if not isinstance(spec, SmoothingSpec))
    store.save(replace(whole, detectors=kept), tmp_path)
    with pytest.raises(ConfigError, match="`certificate: require` needs a profile with a smoothing detector"):
        Sidecar(settings(NOWHERE, {"digits": policy(tmp_path, certificate=Certify.REQUIRE)}))


def test_the_radius_of_the_policy(profile: Path) -> None:
    """The policy's radius is certified, with room for its copies; without one it is the profile's."""
    caps = []
    for radius in (None, 0.9 * _sigma(profile)):
        models = {"digits": policy(profile, certificate=Certify.REPORT, certified_radius=radius)}
        model = load_models(settings(NOWHERE, models), {})["digits"]
        (smoothing,) = (spec for spec in model.detectors if isinstance(spec, SmoothingSpec))
        assert smoothing.radius == (radius or 0.5 * _sigma(profile))
        caps.append(smoothing.cap)
        model.close()
    assert caps[0] < caps[1]


def test_a_radius_out_of_reach(profile: Path) -> None:
    """A radius that would take thousands of copies is refused at start, with the largest that can be had."""
    models = {"digits": policy(profile, certificate=Certify.REPORT, certified_radius=4 * _sigma(profile))}
    with pytest.raises(ConfigError, match=r"'digits': a radius of .* takes more copies .* ask for"):
        Sidecar(settings(NOWHERE, models))


def _sigma(profile: Path) -> float:
    (smoothing,) = (spec for spec in store.load(profile).detectors if isinstance(spec, SmoothingSpec))
    return smoothing.sigma
