"""A folder with good and bad files, in which the tests run the real command."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from guard.audit.segments import segments_of
from guard.profile import store
from tests.audit.parts import written
from tests.support import digits
from tests.support.loop import LoopThread
from tests.support.profiles import plain_profile
from tests.support.sidecars import embedded

GOOD_POLICY = (
    "models:\n  digits: {profile: profile, model: digits.onnx, mode: enforce, false_positive_rate: 0.05, "
    "screening_budget_s: 60.0}\n"  # that a busy machine leaves nothing unscreened
)
BAD_POLICY = """\
listen: {address: 8011}
modles: {}
models:
  digits:
    profile: nowhere
    mode: enfroce
    false_positive_rate: 5
"""
UNLOADABLE_POLICY = """\
models:
  digits:
    profile: profile
    model: again.onnx
    mode: enfroce
    false_positive_rate: 0.0001
  other:
    profile: damaged
    model: digits.onnx
"""
NO_EFFECT_POLICY = """\
models:
  digits:
    profile: profile
    replica: upstream
    model: digits.onnx
    device: cuda
"""


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory, busy: str) -> Path:
    """The digits model with its profile and clean samples, and what is wrong with others, each under its name."""
    folder = tmp_path_factory.mktemp("files")
    shutil.copy(digits.onnx_file(), folder / "digits.onnx")
    store.save(plain_profile(), folder / "profile")
    (folder / "policy.yaml").write_text(GOOD_POLICY)
    (folder / "bad.yaml").write_text(BAD_POLICY)
    (folder / "unloadable.yaml").write_text(UNLOADABLE_POLICY)
    (folder / "no-effect.yaml").write_text(NO_EFFECT_POLICY)
    untested = GOOD_POLICY.replace("}", ", self_test_interval_s: 0}")  # or a line of the log comes before the message
    (folder / "busy.yaml").write_text(f'listen: {{address: "{busy}", admin_address: "127.0.0.1:0"}}\n{untested}')
    (folder / "cuda.yaml").write_text(f"models:\n{GOOD_POLICY.splitlines()[1].replace('}', ', device: cuda}')}\n")
    (folder / "down.yaml").write_text('upstream: {address: "127.0.0.1:2"}\n')
    restricted = "{restricted_protocol: {key: guard, value_file: gone}}"
    (folder / "secretless.yaml").write_text(f"upstream: {restricted}\n")
    _write_samples(folder)
    _write_models(folder)
    (folder / "empty").mkdir()
    shutil.copytree(folder / "profile", folder / "damaged")
    arrays = bytearray((folder / "damaged" / store.ARRAYS).read_bytes())
    arrays[len(arrays) // 2] ^= 0xFF
    (folder / "damaged" / store.ARRAYS).write_bytes(arrays)
    _write_wrong(folder)
    written(folder / "log", "a")
    (folder / "taken.png").mkdir()
    _write_denied(folder)
    return folder


def _write_wrong(folder: Path) -> None:
    """Files that are not what their names say."""
    (folder / "syntax.yaml").write_text("models: {digits: {profile: profile\n  model: x")
    (folder / "key").write_text("x\n")
    (folder / "short.yaml").write_text(f"noise_secret_file: key\n{GOOD_POLICY}")
    (folder / "unmade.yaml").write_text(f"noise_secret_file: gone.key\n{GOOD_POLICY}")
    (folder / "tls.yaml").write_text("listen: {tls: {certificate_file: gone.crt, key_file: gone.key}}\n" + GOOD_POLICY)
    (folder / "junk").mkdir()
    (folder / "junk" / "1.png").write_text("no image")
    (folder / "text.npz").write_text("hello")
    (folder / "nested" / "b.png").mkdir(parents=True)
    (folder / "p.yaml").write_text("{input: image, size_px: [8, 8], colour: grey}\n")
    (folder / "ev").mkdir()
    (folder / "ev" / "kept").touch()
    samples = np.zeros((200, 1, 8, 8), np.float32)
    np.savez(folder / "two.npz", a=samples, b=samples)
    manifest = (folder / "profile" / store.MANIFEST).read_text()
    for name, content in (("cut", manifest[:200]), ("older", json.dumps({**json.loads(manifest), "format": 0}))):
        shutil.copytree(folder / "profile", folder / name)
        (folder / name / store.MANIFEST).write_text(content)


def _write_denied(folder: Path) -> None:
    """Files that nobody may read, and a folder that nobody may write to."""
    for name, like in (("denied.yaml", "policy.yaml"), ("denied.onnx", "digits.onnx"), ("denied.npz", "clean.npz")):
        shutil.copy(folder / like, folder / name)
        (folder / name).chmod(0)
    (folder / "denied.key").touch(mode=0)
    (folder / "secret.yaml").write_text(f"noise_secret_file: denied.key\n{GOOD_POLICY}")
    shutil.copytree(folder / "profile", folder / "sealed")
    (folder / "sealed" / store.MANIFEST).chmod(0)
    (folder / "closed").mkdir(mode=0o555)
    (folder / "shut").mkdir(mode=0)
    traced = 'tracing: {address: "a:4317", tls: true, ca_file: shut/ca.pem}\n'
    (folder / "shut.yaml").write_text(f"{traced}models:\n  digits:\n    profile: shut\n    model: shut/m.onnx\n")
    (folder / "dim").mkdir()
    shutil.copy(folder / "images" / "000.png", folder / "dim" / "a.png")
    (folder / "dim" / "a.png").chmod(0)
    shutil.copytree(folder / "log", folder / "locked")
    for segment in segments_of(folder / "locked"):
        segment.chmod(0)


def _write_samples(folder: Path) -> None:
    clean = digits.load_data().calibration[0]
    np.savez(folder / "clean.npz", inputs=clean)
    np.savez(folder / "others.npz", inputs=digits.load_data().test[0][:50])
    np.save(folder / "few.npy", clean[:20])
    np.save(folder / "wide.npy", clean * 255)
    np.save(folder / "other-shape.npy", np.random.default_rng(0).random((200, 3, 9, 9), np.float32))
    broken = clean.copy()
    broken[3, 0, 1, 1] = np.nan
    np.save(folder / "nan.npy", broken)
    (folder / "images").mkdir()
    for index, image in enumerate(clean[:200]):
        cv2.imwrite(str(folder / "images" / f"{index:03}.png"), np.rint(image[0] * 255).astype(np.uint8))
    (folder / "sizes").mkdir()
    for size in (8, 9):
        cv2.imwrite(str(folder / "sizes" / f"{size}.png"), np.zeros((size, size), np.uint8))


def _write_models(folder: Path) -> None:
    (folder / "broken.onnx").write_bytes(b"this is no model")
    other = onnx.load(folder / "digits.onnx")
    other.doc_string = "trained again"
    onnx.save(other, folder / "again.onnx")
    a, b, c = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in "abc")
    graph = helper.make_graph([helper.make_node("Add", ["a", "b"], ["c"])], "two inputs", [a, b], [c])
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), folder / "two.onnx")


@pytest.fixture(scope="session")
def upstream(folder: Path) -> Iterator[str]:
    """The address of a real server of the digits model."""
    with LoopThread() as loop, embedded(loop, {"digits": folder / "digits.onnx"}) as address:
        yield address


@pytest.fixture(scope="session")
def busy() -> Iterator[str]:
    """An address that is in use."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield f"127.0.0.1:{taken.getsockname()[1]}"
