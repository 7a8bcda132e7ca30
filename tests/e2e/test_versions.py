"""Two versions of a model on a real Triton, each screened with its own profile."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from guard.app import Sidecar
from guard.config import ModelPolicy, Unlisted
from guard.model.onnx import OnnxBackend, inspect_onnx
from guard.offline.calibrate import calibrate
from guard.offline.options import Options
from guard.profile import store
from guard.values import Mode
from tests.support import digits
from tests.support.loop import LoopThread
from tests.support.sidecars import client_of, running, settings, wait_until
from tests.support.triton import Triton

IMAGES = digits.load_data().test[0]


@pytest.fixture(scope="module")
def loop() -> Iterator[LoopThread]:
    """Where Guard runs."""
    with LoopThread() as thread:
        yield thread


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits model as version 1, and one that is surer of itself as version 2, each with its profile."""
    folder = tmp_path_factory.mktemp("versions")
    shutil.copy(digits.onnx_file(), folder / "1.onnx")
    surer = onnx.load(digits.onnx_file())
    for tensor in surer.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            weights = onnx.numpy_helper.to_array(tensor) * np.float32(1.2)
            tensor.CopyFrom(onnx.numpy_helper.from_array(weights, tensor.name))
    onnx.save(surer, folder / "2.onnx")
    samples = digits.load_data().calibration[0][:300]
    for version in ("1", "2"):
        file = folder / f"{version}.onnx"
        backend = OnnxBackend(file.read_bytes(), inspect_onnx(file, name="digits", bounds=(0.0, 1.0), dims=(1, 8, 8)))
        store.save(calibrate(backend, samples, Options(network=False)), folder / version)
    return folder


@pytest.fixture(scope="module")
def both(folder: Path) -> Iterator[str]:
    """The address of a Triton that serves both versions."""
    server = Triton(folder / "triton", name="digits", onnx=folder / "1.onnx")
    model = folder / "triton" / "models" / "digits"
    shutil.copytree(model / "1", model / "2")
    shutil.copy(folder / "2.onnx", model / "2" / "model.onnx")
    with (model / "config.pbtxt").open("a") as config:
        config.write("version_policy: { all {} }\n")
    server.start()
    yield server.address
    server.stop()


def _logits(file: Path) -> np.ndarray:
    """What a model says of the first image."""
    backend = OnnxBackend(file.read_bytes(), inspect_onnx(file, name="digits", bounds=(0.0, 1.0), dims=(1, 8, 8)))
    return backend.logits(torch.from_numpy(IMAGES[:1])).numpy()


def policy(folder: Path, version: str, mode: Mode) -> ModelPolicy:
    """A policy with the profile and the model of a version."""
    return ModelPolicy(
        profile=folder / version,
        model=folder / f"{version}.onnx",
        mode=mode,
        false_positive_rate=0.05,
        screening_budget_s=60.0,
    )


def test_two_versions(loop: LoopThread, both: str, folder: Path) -> None:
    """Each version is answered by itself and judged by its own policy; one that nobody listed is refused."""
    models = {"digits": policy(folder, "2", Mode.FLAG), "digits@1": policy(folder, "1", Mode.SHADOW)}
    with running(loop, Sidecar(settings(both, models))) as sidecar:
        wait_until(sidecar)
        with client_of(sidecar.grpc_port) as client, client_of(int(both.partition(":")[2])) as direct:
            for version, verdicts in (("", {"clean", "adversarial"}), ("2", {"clean", "adversarial"}), ("1", {None})):
                seen = client.ask("digits", IMAGES[:1], version=version)
                assert (seen.status, seen.verdict in verdicts) == ("OK", True), seen
                answer = direct.ask("digits", IMAGES[:1], version=version).logits
                np.testing.assert_allclose(seen.logits, answer, rtol=1e-5)
            refused = client.ask("digits", IMAGES[:1], version="3")
            assert refused.status == "PERMISSION_DENIED"
            assert "version '3' of model 'digits' is not under guard: name digits@3" in refused.message


def test_a_version_with_the_profile_of_another(loop: LoopThread, both: str, folder: Path) -> None:
    """A version whose profile is another's is never screened with it: Guard is not ready and says why."""
    models = {"digits@2": policy(folder, "1", Mode.ENFORCE)}
    with running(loop, Sidecar(settings(both, models, unlisted_models=Unlisted.PASS))) as sidecar:
        wait_until(sidecar, ready=False, says="digits@2: the served model differs from the one in the profile")
        with client_of(sidecar.grpc_port) as client:
            seen = client.ask("digits", IMAGES[:1], version="2")
            assert (seen.status, seen.verdict) == ("UNAVAILABLE", "unscreened")
            assert client.ask("digits", IMAGES[:1]).status == "PERMISSION_DENIED"  # the server would choose version 2


def test_a_version_that_comes_while_guard_runs(loop: LoopThread, folder: Path) -> None:
    """Once the server answers with a newer version, Guard notices in seconds, and nobody gets its answers before."""
    options = {"model-control-mode": "poll", "repository-poll-secs": "1"}
    server = Triton(folder / "polled", name="digits", onnx=folder / "1.onnx", options=options)
    model = folder / "polled" / "models" / "digits"
    server.start()
    ends_s = time.monotonic() + 240
    try:
        guarded = Sidecar(settings(server.address, {"digits": policy(folder, "1", Mode.ENFORCE)}))
        with running(loop, guarded) as sidecar, client_of(sidecar.grpc_port) as client:
            wait_until(sidecar)
            assert client.ask("digits", IMAGES[:1]).verdict in {"clean", "adversarial"}
            shutil.copytree(model / "1", folder / "beside")
            shutil.copy(folder / "2.onnx", folder / "beside" / "model.onnx")
            (folder / "beside").rename(model / "2")
            answers = []
            while not any("the served model differs from the one in the profile" in why for why in sidecar.unready()):
                answers.append(client.ask("digits", IMAGES[:1]))
                assert time.monotonic() < ends_s
            assert client.ask("digits", IMAGES[:1]).status == "UNAVAILABLE"
        screened = _logits(folder / "1.onnx")
        for answer in answers:
            if answer.status == "OK":
                np.testing.assert_allclose(answer.logits, screened, rtol=1e-4)
    finally:
        server.stop()
