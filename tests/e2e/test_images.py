"""Encoded images through Guard to a real Triton that decodes them: by Guard's decoder, and by the server's model."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL
import pytest
import torch
import tritonclient.grpc as triton_client
import yaml
from PIL import Image
from rich.console import Console

from guard.app import Sidecar
from guard.config import Mode, ModelPolicy
from guard.decode.preprocessing import ImageReader
from guard.model.onnx import OnnxBackend
from guard.offline.command import calibrate_to
from guard.offline.options import Options
from guard.offline.perturb import FAMILIES
from guard.offline.source import Source, read_preprocessing
from guard.profile import store
from guard.values import Action
from tests.e2e.peer import Peer, Refused, outcome
from tests.support import digits
from tests.support.loop import LoopThread
from tests.support.profiles import SHORT
from tests.support.sidecars import running, serving, settings, wait_until
from tests.support.triton import Triton

SAMPLES = 240
OPTIONS = {
    "images": Options(budget=SHORT, left_out=tuple(FAMILIES.keys() - {"iterated"}), occlusion=False),
    "prepared": Options(network=False, occlusion=False),
}
OWN = {"input": "IMAGE", "size_px": [8, 8], "colour": "grey", "filter": "box"}
SERVERS = {"input": "IMAGE", "upstream_model": "prepare", "upstream_output": "TENSOR"}
CONFIG = """\
max_batch_size: 16
input [{ name: "IMAGE" data_type: TYPE_STRING dims: [1] }]
output [{ name: "%s" data_type: TYPE_FP32 dims: %s }]
instance_group [{ count: 1 kind: KIND_CPU }]
"""


def encoded(image: np.ndarray, kind: str = "PNG") -> bytes:
    """A digit (1, 8, 8) in 0..1 as a file, four times as large."""
    levels = np.rint(np.kron(image[0], np.ones((4, 4))) * 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(levels).save(file, kind, **({"quality": 95} if kind == "JPEG" else {}))
    return file.getvalue()


def asked(*images: bytes) -> triton_client.InferInput:
    """Images as the stock client sends them."""
    values = np.array(images, np.object_).reshape(-1, 1)
    tensor = triton_client.InferInput("IMAGE", list(values.shape), "BYTES")
    tensor.set_data_from_numpy(values)
    return tensor


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Triton]:
    """A Triton with the digits behind a decoder, twice, and with the decoder alone."""
    folder = tmp_path_factory.mktemp("images")
    server = Triton(folder, name="digits", onnx=digits.onnx_file())
    model = Path(__file__).parents[1] / "support" / "triton_images.py"
    for name in ("images", "prepared", "prepare"):
        output, dims = ("TENSOR", "[1, 8, 8]") if name == "prepare" else ("logits", "[10]")
        server.add(name, model, CONFIG % (output, dims))
        version = folder / "models" / name / "1"
        site = Path(PIL.__file__).parents[1]
        for each in ("PIL", "pillow.libs"):
            (version / each).symlink_to(site / each)
        if name != "prepare":
            (version / "model.onnx").symlink_to(digits.onnx_file())
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of clean digits, as PNG."""
    folder = tmp_path_factory.mktemp("clean")
    for number, image in enumerate(digits.load_data().calibration[0][:SAMPLES]):
        (folder / f"{number:04}.png").write_bytes(encoded(image))
    return folder


@pytest.fixture(scope="module")
def profiles(server: Triton, data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Profiles made as a person makes them: one with Guard's own preprocessing, one with the server's."""
    folder, made = tmp_path_factory.mktemp("profiles"), {}
    for name, said, upstream in (("images", OWN, None), ("prepared", SERVERS, server.address)):
        file = folder / f"{name}.yaml"
        file.write_text(yaml.safe_dump(said))
        source = Source(
            model=digits.onnx_file(),
            upstream=upstream,
            model_name=None,
            bounds=(0.0, 1.0),
            preprocessing=read_preprocessing(file),
        )
        made[name] = folder / name
        calibrate_to(source, data, made[name], OPTIONS[name], Console(quiet=True))
    return made


@pytest.fixture(scope="module")
def guard(server: Triton, profiles: dict[str, Path]) -> Iterator[Peer]:
    """Guard in front of it, ready, and a client."""
    models = {
        name: ModelPolicy(
            profile=profile,
            model=digits.onnx_file(),
            mode=Mode.FLAG,
            false_positive_rate=0.05,
            screening_budget_s=30.0,
            on_unscreened=Action.FLAG,
        )
        for name, profile in profiles.items()
    }
    with serving(settings(server.address, models)) as sidecar, Peer(f"127.0.0.1:{sidecar.grpc_port}") as peer:
        yield peer


@pytest.mark.parametrize("name", ["images", "prepared"])
def test_screened_and_answered(server: Triton, guard: Peer, name: str) -> None:
    """Digits as PNG get their answer to the byte and a verdict; it says so where it is approximate, and only there."""
    images = [encoded(image) for image in digits.load_data().test[0][:8]]
    with Peer(server.address) as direct:
        wanted = direct.client.infer(name, [asked(*images)]).as_numpy("logits")
    got = guard.client.infer(name, [asked(*images)])
    np.testing.assert_array_equal(got.as_numpy("logits"), wanted)
    parameters = got.get_response().parameters
    assert parameters["guard_verdict"].string_param in {"clean", "adversarial"}
    assert ("guard_approximate" in parameters) == (name == "images")


def test_attacked(guard: Peer) -> None:
    """Digits under attack are told from clean ones."""
    images, labels = (part[:20] for part in digits.load_data().test)
    attacked = digits.attack(digits.trained_network(), images, labels)

    def flagged(parts: np.ndarray) -> int:
        answers = [guard.client.infer("images", [asked(encoded(part))]).get_response() for part in parts]
        return sum(answer.parameters["guard_verdict"].string_param == "adversarial" for answer in answers)

    assert flagged(attacked) > flagged(images) + 5


@pytest.mark.parametrize(
    ("name", "image", "code", "says"),
    [
        ("images", b"GIF89a" + bytes(30), "INVALID_ARGUMENT", "neither a JPEG nor a PNG"),
        ("images", encoded(digits.load_data().test[0][0])[:-30], "INVALID_ARGUMENT", "cut short"),
    ],
)
def test_damaged(guard: Peer, name: str, image: bytes, code: str, says: str) -> None:
    """What Guard can't decode is refused before the server sees it."""
    refused = outcome(lambda peer: peer.client.infer(name, [asked(image)]), guard)
    assert isinstance(refused, Refused)
    assert refused.code == code
    assert says in refused.message


def test_what_the_server_refuses(guard: Peer) -> None:
    """Where the server's own model can't decode an image, nothing was screened, and its error comes back unchanged."""
    refused = outcome(lambda peer: peer.client.infer("prepared", [asked(b"no image")]), guard)
    assert isinstance(refused, Refused)
    assert "cannot identify image file" in refused.message


def test_calibration_sees_what_serving_sees(profiles: dict[str, Path]) -> None:
    """The canaries of a profile are what serving makes of the same files, to the bit, by both ways."""
    profile = store.load(profiles["images"])
    assert profile.preprocessing is not None
    reader = ImageReader(profile.preprocessing, profile.model)
    np.testing.assert_array_equal(reader.read(profile.canaries.encoded), profile.canaries.inputs)
    reader.close()
    clean = digits.load_data().calibration[0][: len(profile.canaries.encoded)]
    np.testing.assert_allclose(profile.canaries.inputs, clean, atol=1 / 255)
    theirs = store.load(profiles["prepared"])
    np.testing.assert_allclose(theirs.canaries.inputs, profile.canaries.inputs, atol=1e-6)
    assert len(theirs.sample_hashes) == len(profile.sample_hashes) == SAMPLES
    np.testing.assert_array_equal(theirs.sample_hashes, profile.sample_hashes)


def test_wrong_preprocessing_is_noticed(server: Triton, profiles: dict[str, Path], tmp_path: Path) -> None:
    """Preprocessing that is not the server's makes Guard unready, and the reason says what to check."""
    profile = store.load(profiles["images"])
    assert profile.preprocessing is not None
    wrong = profile.preprocessing.model_copy(update={"scale": 0.5 / 255})
    reader = ImageReader(wrong, profile.model)
    inputs = reader.read(profile.canaries.encoded)
    reader.close()
    backend = OnnxBackend(digits.onnx_file().read_bytes(), profile.model)
    logits = backend.logits(torch.from_numpy(inputs)).numpy()
    canaries = replace(profile.canaries, inputs=inputs, logits=logits)
    store.save(replace(profile, preprocessing=wrong, canaries=canaries), tmp_path / "wrong")
    policy = ModelPolicy(profile=tmp_path / "wrong", model=digits.onnx_file(), false_positive_rate=0.05)
    chosen = settings(server.address, {"images": policy})
    with LoopThread() as loop, running(loop, Sidecar(chosen)) as sidecar:
        wait_until(sidecar, ready=False, says="check that preprocessing is as the server's")
