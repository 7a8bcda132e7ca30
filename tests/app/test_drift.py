"""Drift and common perturbations on a running Guard, in front of a classifier that tells left from right."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from guard.app import Sidecar
from guard.config import ModelPolicy
from guard.profile import store
from guard.profile.profile import BenignScores, Canaries, Profile, Provenance
from guard.profile.spec import ConfidenceSpec
from guard.values import Float32Array, Mode, ModelInfo, OutputKind
from tests.support.loop import LoopThread
from tests.support.sidecars import Client, client_of, embedded, running, settings, wait_until

SHAPE = (1, 32, 32)
LEFT = np.repeat([1.0, -1.0], 16)
"""A row of what tells the left from the right."""


def model_file(path: Path) -> Path:
    """Logits: how much brighter the left half is than the right, and the other way round."""
    left = np.tile(LEFT, 32)[:, None].astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["input"], ["flat"]),
            helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
        ],
        "halves",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", *SHAPE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2])],
        [numpy_helper.from_array(np.hstack([left, -left]), "weights")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def images(number: int, seed: int) -> Float32Array:
    """Some blocks and some noise, brighter on one side."""
    rng = np.random.default_rng(seed)
    sides = rng.choice([-1, 1], (number, 1, 1, 1)) * rng.normal(0.06, 0.01, (number, 1, 1, 1)) * LEFT
    blocks = np.kron(rng.uniform(-0.25, 0.25, (number, 1, 8, 4)), np.ones((4, 4)))
    noise = rng.uniform(-0.05, 0.05, (number, *SHAPE))
    return (0.5 + sides + np.concatenate([blocks, blocks], axis=3) + noise).astype(np.float32)


def logits(inputs: Float32Array) -> Float32Array:
    """The model's answers."""
    left = (inputs * LEFT).sum(axis=(1, 2, 3))
    return np.stack([left, -left], axis=1).astype(np.float32)


def scores(inputs: Float32Array) -> BenignScores:
    """The scores of benign images: minus the margin."""
    answers = logits(inputs)
    return BenignScores(answers.argmax(axis=1), {"confidence": -np.abs(answers[:, 0] - answers[:, 1]).astype(float)})


@pytest.fixture(scope="module")
def sidecar(loop: LoopThread, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Sidecar, Client]]:
    """Guard in flag mode, twice: looking for drift, and not."""
    folder = tmp_path_factory.mktemp("halves")
    file = model_file(folder / "halves.onnx")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    info = ModelInfo("halves", "input", "logits", "FP32", SHAPE, 2, (0.0, 1.0), OutputKind.LOGITS, digest)
    canaries = images(8, 0)
    profile = Profile(
        model=info,
        detectors=(ConfidenceSpec(),),
        reference=scores(images(300, 1)),
        calibration=scores(images(300, 2)),
        canaries=Canaries(canaries, logits(canaries)),
        provenance=Provenance("2025-01-02T03:04:05+00:00", "0.1", 0, {}, {}),
    )
    store.save(profile, folder)
    with embedded(loop, {"on": file, "off": file}) as upstream:
        models = {
            name: ModelPolicy(
                profile=folder, model=file, screening_budget_s=60.0, drift_false_alarm=level, mode=Mode.FLAG
            )
            for name, level in (("on", 1e-4), ("off", 0))
        }
        with running(loop, Sidecar(settings(upstream, models))) as started:
            wait_until(started)
            with client_of(started.grpc_port) as client:
                yield started, client


def value(sidecar: Sidecar, name: str, **labels: str) -> float | None:
    """A series."""
    return sidecar.metrics.registry.get_sample_value(name, labels)


def test_drift_is_exported(sidecar: tuple[Sidecar, Client]) -> None:
    """Images that lost their contrast are drift, of one client as there is no other; ordinary ones before are none."""
    guard, client = sidecar
    on = {"model": "on", "scope": "one_client"}
    client.ask("on", images(100, 3))
    assert value(guard, "guard_drift_suspected", **on) == 0
    assert value(guard, "guard_drift_log_martingale", **on) not in {0.0, None}
    client.ask("on", (0.5 + 0.6 * (images(200, 4) - 0.5)).astype(np.float32))
    assert value(guard, "guard_drift_suspected", **on) == 1
    assert value(guard, "guard_drift_suspected", model="on", scope="several_clients") == 0


def test_drift_is_not_looked_for(sidecar: tuple[Sidecar, Client]) -> None:
    """With `drift_false_alarm: 0` there is no such series."""
    guard, _ = sidecar
    assert value(guard, "guard_drift_suspected", model="off", scope="one_client") is None


def test_a_common_perturbation_is_counted(sidecar: tuple[Sidecar, Client]) -> None:
    """Images that one perturbation made too sure of their label are found to share it."""
    guard, client = sidecar
    pattern = 0.09 * LEFT + np.random.default_rng(5).choice([-0.05, 0.05], SHAPE)
    inputs = images(20, 6)
    brighter_left = inputs[logits(inputs)[:, 0] > 0][:6]
    client.ask("off", np.clip(brighter_left + pattern, 0, 1).astype(np.float32))
    assert value(guard, "guard_items_total", model="off", verdict="adversarial") == 6
    assert value(guard, "guard_shared_perturbations_total", model="off") == 5
