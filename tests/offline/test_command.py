"""What `guard calibrate` does around the calibration."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from rich.console import Console

from guard.config import Upstream
from guard.errors import ConfigError, DataError, GuardError, UpstreamUnavailable
from guard.offline.calibrate import LEAST_SAMPLES
from guard.offline.command import calibrate_to
from guard.offline.options import Options
from guard.offline.source import Source
from guard.output import make_folder
from guard.profile import store
from guard.profile.spec import ImagePreprocessing
from guard.transport import RestrictedProtocol
from tests.support import digits
from tests.support.profiles import SHORT

NAN, INF = float("nan"), float("inf")


def source(model: Path | None = None, bounds: tuple[float, float] = (0.0, 1.0)) -> Source:
    """A model file, by default that of the digits."""
    return Source(model=model or digits.onnx_file(), upstream=None, model_name=None, bounds=bounds)


def console() -> tuple[Console, io.StringIO]:
    """A console, and what is printed there."""
    printed = io.StringIO()
    return Console(file=printed, width=100, markup=False), printed


@pytest.fixture
def clean(tmp_path: Path) -> Path:
    """Clean digits, as images (n, 8, 8) without a channel axis."""
    np.savez(tmp_path / "clean.npz", inputs=digits.load_data().calibration[0][:LEAST_SAMPLES, 0])
    return tmp_path / "clean.npz"


@pytest.mark.parametrize(
    ("model", "upstream", "name", "bounds", "says"),
    [
        (None, None, None, (0, 1), "either --model model.onnx, or --upstream"),
        (Path("m.onnx"), "a:1", "m", (0, 1), "either --model model.onnx, or --upstream"),
        (None, "a:1", None, (0, 1), "name the model with --model-name"),
        (None, "a:1", "", (0, 1), "name the model with --model-name"),
        (Path("m.onnx"), None, None, (1, 0), "--bounds 1 0: give two finite numbers, the smaller one first"),
        (Path("m.onnx"), None, None, (1, 1), "--bounds 1 1"),
        (Path("m.onnx"), None, None, (NAN, 1), "--bounds nan 1"),
        (Path("m.onnx"), None, None, (0, NAN), "--bounds 0 nan"),
        (Path("m.onnx"), None, None, (-INF, 1), "--bounds -inf 1"),
        (Path("m.onnx"), None, None, (0, INF), "--bounds 0 inf"),
    ],
)
def test_a_source_that_is_none(
    model: Path | None, upstream: str | None, name: str | None, bounds: tuple[float, float], says: str
) -> None:
    """Neither or both of file and server, a server without a name, and bounds that are none, are refused."""
    with pytest.raises(ConfigError, match=says):
        Source(model=model, upstream=upstream, model_name=name, bounds=bounds)


def test_everything_is_written(clean: Path, tmp_path: Path) -> None:
    """The profile, its network and its picture are written to a folder that is made, and said to be there."""
    out, (there, printed) = tmp_path / "a" / "profile", console()
    calibrate_to(source(), clean, out, Options(budget=SHORT), there)
    networks = {"network.onnx", "activations.onnx", "reconstruction.onnx", "auxiliary.onnx"}
    assert {path.name for path in out.iterdir()} == {"profile.json", "scores.npz", "scores.png"} | networks
    profile = store.load(out)
    assert profile.model.shape == (1, 8, 8)  # the samples had no channel axis
    assert profile.model.name == digits.onnx_file().stem
    picture = cv2.imread(str(out / "scores.png"))
    assert picture is not None
    assert picture.shape[0] > 400
    assert "training the detector network" in printed.getvalue()
    assert f"The profile is in {out}; benign scores as a picture: {out / 'scores.png'}" in printed.getvalue()


def test_a_folder_that_cannot_be_made(clean: Path) -> None:
    """Where the profile can't go is said before the work, not after it."""
    there, printed = console()
    with pytest.raises(ConfigError, match=r"--out .*clean.npz can't be made a folder \(File exists\); name another"):
        calibrate_to(source(), clean, clean, Options(), there)
    assert not printed.getvalue()


@pytest.mark.parametrize("wrong", ["out", "ray"])
def test_images_are_decoded_last(tmp_path: Path, wrong: str) -> None:
    """Where the profile can't go, or no cluster is there, is said before a folder of images is decoded."""
    images = tmp_path / "images"
    images.mkdir()
    for index, image in enumerate(digits.load_data().calibration[0][:20]):
        cv2.imwrite(str(images / f"{index:02}.png"), np.rint(image[0] * 255).astype(np.uint8))
    (images / "99.png").write_text("no image")  # whoever decodes them all says so
    (tmp_path / "taken").touch()
    of_images = replace(source(), preprocessing=ImagePreprocessing(input="image", size_px=(8, 8), colour="grey"))
    out = tmp_path / ("taken" if wrong == "out" else "out")
    there, printed = console()
    with pytest.raises(GuardError, match=f"^--{wrong} "):
        calibrate_to(of_images, images, out, Options(ray="127.0.0.1:1" if wrong == "ray" else None), there)
    assert not printed.getvalue()
    with pytest.raises(DataError, match="of the images from number 16 on"):
        calibrate_to(of_images, images, tmp_path / "out", Options(), there)


def test_make_folder(tmp_path: Path) -> None:
    """A folder is made with those around it, and one that is there is fine."""
    for _ in range(2):
        make_folder(tmp_path / "a" / "b", "--out")
        assert (tmp_path / "a" / "b").is_dir()


def test_bounds_of_a_model_of_integers(clean: Path, tmp_path: Path) -> None:
    """A model of 8-bit inputs with bounds of 0 and 1 would be calibrated on black images: the bounds are asked for."""
    value, answer = (
        onnx.helper.make_tensor_value_info(name, kind, ["n", *shape])
        for name, kind, shape in (("x", onnx.TensorProto.UINT8, (8, 8)), ("y", onnx.TensorProto.FLOAT, (64,)))
    )
    nodes = [
        onnx.helper.make_node("Cast", ["x"], ["real"], to=onnx.TensorProto.FLOAT),
        onnx.helper.make_node("Flatten", ["real"], ["y"]),
    ]
    graph = onnx.helper.make_graph(nodes, "of bytes", [value], [answer])
    opset = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=9), tmp_path / "bytes.onnx")
    there, _ = console()
    with pytest.raises(ConfigError, match=r"'bytes' takes UINT8, of which --bounds 0 1 leave next to nothing.* 0 255"):
        calibrate_to(source(tmp_path / "bytes.onnx"), clean, tmp_path / "out", Options(network=False), there)
    np.savez(tmp_path / "bytes.npz", inputs=np.random.default_rng(0).integers(0, 256, (150, 8, 8)).astype(np.uint8))
    of_bytes = source(tmp_path / "bytes.onnx", (0.0, 255.0))
    calibrate_to(of_bytes, tmp_path / "bytes.npz", tmp_path / "out", Options(network=False), there)
    assert store.load(tmp_path / "out").model.datatype == "UINT8"


def test_how_a_server_is_reached(tmp_path: Path) -> None:
    """A policy's TLS and secret go with calls to the server that --upstream names."""
    (tmp_path / "secret").write_text("sesame")
    restricted = RestrictedProtocol(key="guard", value_file=tmp_path / "secret")
    reached_by = Upstream(address="a:1", restricted_protocol=restricted)
    made = Source(model=None, upstream="b:1", model_name="m", bounds=(0, 1), reached_by=reached_by)
    assert made.server is not None
    assert made.server.address == "b:1"
    assert made.server.metadata() == (("triton-grpc-protocol-guard", "sesame"),)


def test_an_upstream_that_is_down(clean: Path, tmp_path: Path) -> None:
    """A server that isn't there is reported as that, whatever the layout of the samples, and nothing is written."""
    down = Source(model=None, upstream="127.0.0.1:1", model_name="digits", bounds=(0.0, 1.0))
    there, _ = console()
    with pytest.raises(UpstreamUnavailable, match=r"no inference server answers at 127.0.0.1:1"):
        calibrate_to(down, clean, tmp_path / "out", Options(), there)
    assert not (tmp_path / "out").exists()
