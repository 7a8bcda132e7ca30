"""An attack on a running Guard, and what a responder finds of it with the real commands."""

from __future__ import annotations

import hashlib
import json
import queue
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import tritonclient.grpc as triton
import tritonclient.http as triton_http

from guard import __version__
from guard.app import Sidecar
from guard.audit.keys import key_id, pseudonym
from guard.audit.records import records
from guard.audit.segments import segments_of
from guard.cli import audit as commands
from guard.config import Listen, Mode
from guard.errors import ConfigError, DataError, ProfileMismatch
from guard.profile import store
from guard.recording import Audit, Captures
from tests.app.parts import policy
from tests.audit.parts import on_disk
from tests.support import digits
from tests.support.command import guard
from tests.support.loop import LoopThread
from tests.support.profiles import plain_profile
from tests.support.sidecars import embedded, running, settings, wait_until
from tests.support.waiting import wait_for

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
Send = Callable[["House", str, np.ndarray], str]


@dataclass(frozen=True)
class House:
    """A ready Guard with a log that records everything, and an image that it rejects."""

    sidecar: Sidecar
    folder: Path
    bad: np.ndarray

    def counted(self, outcome: str, sink: str = "log") -> float:
        """What it exports of the log."""
        labels = {"sink": sink, "outcome": outcome}
        return self.sidecar.metrics.registry.get_sample_value("guard_audit_events_total", labels) or 0.0


def audit(folder: Path) -> Audit:
    """A log that records everything, with keys beside it."""
    names, captures = folder / "names", folder / "captures"
    names.write_bytes(b"n" * 32)
    captures.write_bytes(b"c" * 32)
    return Audit(folder=folder / "log", pseudonym_key_file=names, forwards=1.0, captures=Captures(key_file=captures))


@contextmanager
def house(loop: LoopThread, profile: Path, folder: Path) -> Iterator[House]:
    """A house, closed at the end."""
    models = {"digits": policy(profile), "watched": policy(profile, mode=Mode.SHADOW)}
    listen = Listen(address="127.0.0.1:0", admin_address="127.0.0.1:0", http_address="127.0.0.1:0")
    with embedded(loop, dict.fromkeys(models, digits.onnx_file())) as upstream:
        given = settings(upstream, models, audit=audit(folder), listen=listen)
        with running(loop, Sidecar(given)) as sidecar:
            wait_until(sidecar)
            yield House(sidecar, folder / "log", _rejected_one(sidecar))


def _rejected_one(sidecar: Sidecar) -> np.ndarray:
    """An attacked digit that is rejected, (1, 1, 8, 8): of attacks that only just get over the boundary."""
    images, labels = digits.load_data().test
    net = digits.trained_network()
    weak = (digits.attack(net, images[:40], labels[:40], epsilon=epsilon) for epsilon in (0.06, 0.1, 0.15))
    found = (image[None] for each in weak for image in each)
    return next(image for image in found if "PERMISSION_DENIED" in _grpc(sidecar, "digits", image))


def _grpc(sidecar: Sidecar, model: str, image: np.ndarray) -> str:
    tensor = triton.InferInput("input", list(image.shape), "FP32")
    tensor.set_data_from_numpy(image)
    with triton.InferenceServerClient(f"127.0.0.1:{sidecar.grpc_port}") as client:
        try:
            client.infer(model, [tensor], request_id="mine", headers={"traceparent": TRACE})
        except triton.InferenceServerException as error:
            return f"{error.status()} {error.message()}"
    return ""


def by_grpc(house: House, model: str, image: np.ndarray) -> str:
    """Send an image in a call: the message of its refusal."""
    return _grpc(house.sidecar, model, image)


def by_stream(house: House, model: str, image: np.ndarray) -> str:
    """Send an image in a stream."""
    tensor = triton.InferInput("input", list(image.shape), "FP32")
    tensor.set_data_from_numpy(image)
    answers: queue.Queue[Any] = queue.Queue()
    with triton.InferenceServerClient(f"127.0.0.1:{house.sidecar.grpc_port}") as client:
        client.start_stream(lambda result, error: answers.put((result, error)), headers={"traceparent": TRACE})
        client.async_stream_infer(model, [tensor], request_id="mine")
        _, error = answers.get(timeout=60)
    return "" if error is None else str(error.message())


def by_http(house: House, model: str, image: np.ndarray) -> str:
    """Send an image over HTTP."""
    tensor = triton_http.InferInput("input", list(image.shape), "FP32")
    tensor.set_data_from_numpy(image)
    with triton_http.InferenceServerClient(f"127.0.0.1:{house.sidecar.http_port}") as client:
        try:
            client.infer(model, [tensor], request_id="mine", headers={"traceparent": TRACE})
        except triton_http.InferenceServerException as error:
            return str(error.message())
    return ""


def _records(folder: Path) -> Iterator[Any]:
    return records(folder) if folder.exists() and segments_of(folder) else iter(())


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A profile of the digits model that was calibrated in a moment."""
    directory = tmp_path_factory.mktemp("plain")
    store.save(plain_profile(), directory)
    return directory


@pytest.fixture(scope="module")
def attacked(loop: LoopThread, plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A house that was attacked once already."""
    with house(loop, plain, tmp_path_factory.mktemp("house")) as made:
        yield made


@pytest.mark.parametrize("send", [by_grpc, by_stream, by_http], ids=["grpc", "stream", "http"])
def test_an_attack_is_recorded(attacked: House, send: Send) -> None:
    """Whichever way a rejected request came, its record says who sent what, and why it was refused."""
    message = send(attacked, "digits", attacked.bad)
    (uid,) = re.findall(r"guard_id=([0-9a-f]{32})", message)
    event = _named(attacked, uid)
    data, rest = event["data"], event["data"]["unmapped"]["guard"]
    assert (data["action_id"], rest["decision"], rest["verdict"]) == (2, "reject", "adversarial")
    assert (rest["request_id"], rest["model"], rest["mode"]) == ("mine", "digits", "enforce")
    assert "AML.T0015" in {each["technique"]["uid"] for each in data["attacks"]}
    assert event["traceparent"] == TRACE
    assert rest["tensors"][0]["sha256"] == hashlib.sha256(attacked.bad.tobytes()).hexdigest()
    assert rest["client"] == {"pseudonym": pseudonym(b"n" * 32, "ipv4:127.0.0.1"), "key": key_id(b"n" * 32)}
    assert data["evidences"][0]["src_endpoint"]["ip"] == "127.0.0.1"
    assert rest["policy"] == attacked.sidecar.in_force.version
    assert rest["profile"] == attacked.sidecar.in_force.models["digits"].content
    said = {each["detector"]: each for each in data["evidences"][0]["data"]["detectors"]}
    assert {"confidence", "squeezing", "sensitivity_gaussian"} <= said.keys()
    assert 0 < said["squeezing"]["p_value"] <= 1
    assert said["squeezing"]["version"].startswith(f"{__version__}+")


def _recorded(house: House, image: np.ndarray) -> dict[str, Any]:
    """The first record of an image."""
    hashed = hashlib.sha256(image.tobytes()).hexdigest()
    return _first(house, lambda each: each["data"]["unmapped"]["guard"]["tensors"][0]["sha256"] == hashed)


def _named(house: House, uid: str) -> dict[str, Any]:
    return _first(house, lambda each: each["id"] == uid)


def _first(house: House, sought: Callable[[Any], bool]) -> dict[str, Any]:
    """The first such record, once it is written."""
    found: list[Any] = []
    wait_for(lambda: found or found.extend(filter(sought, _records(house.folder))))
    return dict(found[0])


def test_near_duplicates_are_one_group(attacked: House) -> None:
    """Records of inputs that resemble each other name one group, and those of others another."""
    other = next(image[None] for image in digits.load_data().test[0][::-1])
    shifted = np.clip(attacked.bad + np.float32(1e-4), 0, 1)
    for image in (attacked.bad, shifted, other):
        by_grpc(attacked, "digits", image)
    groups = [_recorded(attacked, image)["data"]["unmapped"]["guard"]["groups"] for image in (attacked.bad, shifted)]
    assert groups[0] == groups[1] != []
    assert groups[0] != _recorded(attacked, other)["data"]["unmapped"]["guard"]["groups"] != []


def test_every_field_is_there(attacked: House) -> None:
    """A responder finds who asked for what, when, by which trace, what each detector said, and by which policy."""
    (uid,) = re.findall(r"guard_id=([0-9a-f]{32})", by_grpc(attacked, "digits", attacked.bad))
    event = _named(attacked, uid)
    data, rest = event["data"], event["data"]["unmapped"]["guard"]
    assert {"request_id", "model", "model_version", "mode", "decision", "policy", "profile", "groups"} <= rest.keys()
    assert (data["metadata"]["uid"], data["metadata"]["correlation_uid"]) == (uid, TRACE.split("-")[1])
    assert data["policy"]["uid"] == rest["policy"] != ""
    assert data["evidences"][0]["src_endpoint"].keys() == {"ip", "port"}
    (tensor,) = rest["tensors"]
    assert (tensor["name"], tensor["shape"], len(tensor["sha256"])) == ("input", [1, 1, 8, 8], 64)
    for said in data["evidences"][0]["data"]["detectors"]:
        assert said["version"]
        assert said["finding"] != "evidence" or {"score", "p_value"} <= said.keys()
    assert {each["finding"] for each in data["evidences"][0]["data"]["detectors"]} >= {"evidence", "probing"}


def test_shadow_mode_is_recorded(attacked: House) -> None:
    """What is only watched is recorded as observed, with what the policy would have done."""
    assert by_grpc(attacked, "watched", attacked.bad) == ""
    found = _first(attacked, lambda each: each["subject"] == "watched")
    rest = found["data"]["unmapped"]["guard"]
    assert found["data"]["action_id"] == 3
    assert (rest["mode"], rest["intended"], rest["decision"]) == ("shadow", "reject", "forward")


def test_a_clean_request_is_recorded(attacked: House) -> None:
    """A sampled request that was let through is recorded, without its input."""
    image = next(x[None] for x in digits.load_data().test[0] if not by_grpc(attacked, "digits", x[None]))
    found = _recorded(attacked, image)
    assert (found["data"]["action_id"], "dataref" in found, "attacks" in found["data"]) == (1, False, False)


def test_the_metrics(attacked: House) -> None:
    """Guard exports how many records it wrote, and what evidence takes on the disk."""
    wait_for(lambda: attacked.counted("written") == len(list(records(attacked.folder))) > 0)
    shown = attacked.sidecar.metrics.registry.get_sample_value("guard_audit_disk_bytes")
    taken, files = on_disk(attacked.folder), len(segments_of(attacked.folder)) + 2  # the folder and the lock
    assert taken - 4096 * files <= shown <= taken  # of the log's files the last block counts as far as it is written
    assert attacked.counted("written", "captures") > 0
    assert attacked.counted("failed") == attacked.counted("dropped") == 0


def test_what_a_responder_does(loop: LoopThread, plain: Path, tmp_path: Path) -> None:
    """After an attack: verify the log, look at the input, ask questions of all; and see it once a byte is changed."""
    with house(loop, plain, tmp_path) as made:
        (uid,) = re.findall(r"guard_id=([0-9a-f]{32})", by_grpc(made, "digits", made.bad))
    ran = guard("audit", "verify", "log", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    (head,) = re.findall(r"the last with hash ([0-9a-f]{64})", ran.stdout)
    commands.verify(tmp_path / "log", head=head)  # it raises where something is wrong, or the head is not there

    shown = guard("audit", "show", uid, "log", "--key", "captures", "--out", "input.png", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "AML.T0015 Evade AI Model" in shown.stdout
    assert "adversarial: reject in enforce mode, denied" in shown.stdout
    picture = cv2.imread(str(tmp_path / "input.png"))
    assert picture is not None
    assert _shows(picture, made.bad[0, 0])
    assert not _framed(picture)  # the profile has no masks: the digits are too small

    words = ("--key", "captures", "--model", str(digits.onnx_file()), "--profile", str(plain), "--out", "heat.png")
    shown = guard("audit", "show", uid, "log", *words, "--json", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert json.loads(shown.stdout)["id"] == uid
    assert _framed(cv2.imread(str(tmp_path / "heat.png")))

    commands.export(tmp_path / "log", file=tmp_path / "log.parquet")
    rows = pq.read_table(tmp_path / "log.parquet").to_pylist()
    assert len(rows) == len(list(records(tmp_path / "log")))
    row = next(each for each in rows if each["id"] == uid)
    assert (row["decision"], row["peer_ip"], row["traceparent"]) == ("reject", "127.0.0.1", TRACE)
    assert {"confidence", "squeezing"} <= {each["detector"] for each in row["detectors"]}

    (segment,) = segments_of(tmp_path / "log")
    content = bytearray(segment.read_bytes())
    at = content.index(uid.encode())
    content[at] ^= 1
    segment.write_bytes(content)
    ran = guard("audit", "verify", "log", cwd=tmp_path)
    line = content[:at].count(b"\n") + 1
    assert ran.returncode == 4
    assert f"{segment.name}:{line}: the line was changed" in ran.stdout
    assert "is not as it was written: 1 place was changed" in ran.stderr


def test_a_heat_map_of_another_model(loop: LoopThread, plain: Path, tmp_path: Path) -> None:
    """A heat map is made by the model that answered, and what it takes is asked for together."""
    with house(loop, plain, tmp_path) as made:
        (uid,) = re.findall(r"guard_id=([0-9a-f]{32})", by_grpc(made, "digits", made.bad))
    keys, out = [tmp_path / "captures"], tmp_path / "heat.png"
    with pytest.raises(ConfigError, match="--model, --profile and --out go together"):
        commands.show(uid, tmp_path / "log", key=keys, model=digits.onnx_file(), picture=out)
    with pytest.raises(ConfigError, match="--model, --profile and --out go together"):
        commands.show(uid, tmp_path / "log", key=keys, model=digits.onnx_file(), profile=plain)
    (tmp_path / "other.onnx").write_bytes(digits.onnx_file().read_bytes() + b"\0")
    with pytest.raises(ProfileMismatch, match=r"--model .*other\.onnx is another model"):
        commands.show(uid, tmp_path / "log", key=keys, model=tmp_path / "other.onnx", profile=plain, picture=out)
    other = plain_profile()
    store.save(replace(other, model=replace(other.model, fingerprint="1" * 64)), tmp_path / "other")
    with pytest.raises(DataError, match=rf"--profile .*other is of another model than the one that answered {uid}"):
        commands.show(
            uid, tmp_path / "log", key=keys, model=digits.onnx_file(), profile=tmp_path / "other", picture=out
        )
    assert not out.exists()


def _framed(picture: np.ndarray) -> bool:
    """Whether a heat map is in a picture: a cyan frame is around its hottest part."""
    return int((picture == (255, 255, 0)).all(axis=-1).sum()) > 100


def _shows(picture: np.ndarray, image: np.ndarray) -> bool:
    """Whether an image of digits is somewhere in a picture, enlarged: found by matching it at the size it has there."""
    grey = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY)
    best = 0.0
    for side in range(200, 400, 4):
        enlarged = cv2.resize((image * 255).astype(np.uint8), (side, side), interpolation=cv2.INTER_NEAREST)
        best = max(best, float(cv2.matchTemplate(grey, enlarged, cv2.TM_CCOEFF_NORMED).max()))
    return best > 0.95
