"""`guard calibrate`, `profile show` and `check-config` where nothing is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import jsonschema
import numpy as np
import pytest
from onnx import TensorProto, helper, save

import guard as package
from guard.offline import calibrate as offline
from guard.offline.data import load_samples
from guard.profile import spec, store
from guard.profile.profile import Profile
from tests.support.command import guard
from tests.support.profiles import digits_backend


def calibrate(folder: Path, *arguments: object) -> tuple[Profile, str]:
    """Calibrate into `folder`/made, and check what every calibration leaves: the profile, and what was printed."""
    out = folder / "made"
    ended = guard("calibrate", "--out", out, *arguments, cwd=folder)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert f"The profile is in {out}" in ended.stdout
    picture = cv2.imread(str(out / "scores.png"))
    assert picture is not None
    assert picture.std() > 10  # something is drawn
    shown = guard("profile", "show", out, cwd=folder)
    assert shown.returncode == 0
    assert shown.stdout in ended.stdout
    return store.load(out), shown.stdout


@pytest.mark.parametrize(("data", "samples"), [("images", 200), ("clean.npz", 797)])
def test_a_model_file(folder: Path, tmp_path: Path, data: str, samples: int) -> None:
    """A model file and clean samples, be they images or an npz, become a profile that the command can show."""
    arguments = ("--model", folder / "digits.onnx", "--data", folder / data, "--no-network", "--seed", 3)
    profile, shown = calibrate(tmp_path, *arguments)
    assert (profile.model.name, profile.model.shape, profile.provenance.seed) == ("digits", (1, 8, 8), 3)
    assert sum(profile.provenance.samples.values()) == samples
    assert not (tmp_path / "made" / "network.onnx").exists()
    for word in ("sensitivity_gaussian", "squeezing", "smoothing", "confidence", "10 classes", "seed 3"):
        assert word in shown


def squeezers(profile: Profile) -> set[type]:
    """The kinds of squeezers that a profile has."""
    specs = [each for each in profile.detectors if isinstance(each, spec.SqueezingSpec)]
    return {type(squeezer) for each in specs for squeezer in each.squeezers}


def test_the_server_as_the_model(folder: Path, upstream: str, tmp_path: Path) -> None:
    """Without a model file the server is asked, and its answers give the same scores.

    But for squeezing where one of them is slow: then one squeezer more is worth its time.
    """
    data = folder / "images"
    arguments = ("--upstream", upstream, "--model-name", "digits", "--data", data, "--no-network")
    profile, _ = calibrate(tmp_path, *arguments, "--mutation", "uniform")
    assert "sensitivity_uniform" in profile.scoring
    samples = load_samples(data, (0.0, 1.0))[:, None]
    by_file = offline.calibrate(digits_backend(), samples, offline.Options(network=False))
    assert profile.model.fingerprint != by_file.model.fingerprint
    asked, alone = squeezers(profile), squeezers(by_file)
    assert asked ^ alone <= {spec.NonLocalMeans}
    alike = ["confidence", "squeezing"] if asked == alone else ["confidence"]
    for detector in alike:  # the others draw noise by fingerprint
        theirs, ours = profile.calibration.scores[detector], by_file.calibration.scores[detector]
        np.testing.assert_allclose(theirs, ours, rtol=1e-3, atol=1e-4)


def test_all_defaults(tmp_path: Path) -> None:
    """By default a detector network is trained; numbers that are no image do as well; names are shown as they are."""
    folder = tmp_path / "[red]:smile:[" / "b]"  # markup, were it taken for that: a tag, an emoji, an end of nothing
    folder.mkdir(parents=True)
    weights = np.array([[9, -3, 0], [-3, 9, 0], [0, 0, 9], [1, 1, -2]], np.float32)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])
    w = helper.make_tensor("w", TensorProto.FLOAT, weights.shape, weights.ravel())
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "linear", [x], [y], [w])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    save(model, folder / "[b]m.onnx")
    np.savez(folder / "clean.npz", inputs=np.random.default_rng(0).random((300, 4), np.float32))
    profile, shown = calibrate(folder, "--model", "[b]m.onnx", "--data", "clean.npz")
    assert "[b]m (fingerprint" in shown
    assert "network" in profile.scoring
    files = {path.name for path in (folder / "made").iterdir()}
    assert files == {"profile.json", "scores.npz", "network.onnx", "auxiliary.onnx", "scores.png"}


def test_check_config(folder: Path) -> None:
    """A policy without mistakes is called fine, and summed up."""
    ended = guard("check-config", "policy.yaml", cwd=folder)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "policy.yaml is fine" in ended.stdout
    assert "digits (enforce at 0.05 false positives" in ended.stdout


def test_schema(tmp_path: Path) -> None:
    """`--schema` prints a valid JSON Schema and nothing else."""
    ended = guard("check-config", "--schema", cwd=tmp_path)
    schema = json.loads(ended.stdout)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert "models" in schema["properties"]


def test_version_and_help(tmp_path: Path) -> None:
    """The command says its version, and what it can do."""
    assert guard("--version", cwd=tmp_path).stdout == f"guard {package.__version__}\n"
    shown = guard("--help", cwd=tmp_path).stdout
    assert all(command in shown for command in ("demo", "serve", "calibrate", "check-config", "profile"))
