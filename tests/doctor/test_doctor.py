"""What the doctor says of real deployments, well and ill."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import onnx
import pytest

from guard.app import Sidecar
from guard.cli.doctor import lines
from guard.config import Listen, Settings, Upstream
from guard.config_file import load_settings
from guard.doctor import Finding, Level, around, examine
from guard.errors import ConfigError
from guard.profile import store
from tests.support.certificates import DAY, Authority
from tests.support.command import guard
from tests.support.digits import load_data
from tests.support.loop import LoopThread
from tests.support.profiles import plain_profile
from tests.support.sidecars import embedded, running, wait_until

NOBODY = "127.0.0.1:1"
POLICY = """\
upstream: {{address: "{upstream}"}}
listen: {{address: "127.0.0.1:0", admin_address: "{admin}"{tls}}}
noise_secret_file: {folder}/secret
models:
  digits: {{profile: {folder}/profile, model: {folder}/{model}, mode: enforce, false_positive_rate: 0.05}}
"""


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


def policy(folder: Path, upstream: str, *, admin: str = NOBODY, model: str = "digits.onnx", tls: str = "") -> Path:
    """A policy file."""
    path = folder / "policy.yaml"
    path.write_text(POLICY.format(upstream=upstream, admin=admin, folder=folder, model=model, tls=tls))
    return path


def look(path: Path) -> dict[str, list[Finding]]:
    """The findings by check. No test machine serves HTTP at port 1."""
    found: dict[str, list[Finding]] = {}
    for finding in examine(path, http_port=1):
        found.setdefault(finding.check, []).append(finding)
    return found


def levels(findings: list[Finding]) -> set[Level]:
    """How bad they are."""
    return {finding.level for finding in findings}


def test_all_is_well(loop: LoopThread, folder: Path) -> None:
    """Of a sound deployment nothing is wrong: profile, server and installation fit, and there is no way round."""
    with embedded(loop, {"digits": folder / "digits.onnx"}) as upstream:
        found = look(policy(folder, upstream))
    assert {check: levels(findings) for check, findings in found.items() if check != "limits"} == {
        "profiles": {Level.OK},
        "provider": {Level.OK},
        "served model": {Level.OK},
        "around guard": {Level.OK},
        "guard": {Level.NOTE},
        "clock": {Level.OK},
    }
    assert found["provider"][0].found == "digits: runs on CPUExecutionProvider"


def test_a_profile_without_known_attacks(loop: LoopThread, folder: Path) -> None:
    """Where the profile keeps nothing to test detectors with, that is said; not where the policy wants no test."""
    with embedded(loop, {"digits": folder / "digits.onnx"}) as upstream:
        path = policy(folder, upstream)
        text = path.read_text().replace(f"{folder}/profile", f"{folder}/forgetful")
        found = []
        for wanted in (text, text.replace("mode: enforce", "mode: enforce, self_test_interval_s: 0")):
            path.write_text(wanted)
            found.append(look(path).get("self-test"))
    assert found[1] is None
    assert [(each.level, each.remedy) for each in found[0]] == [
        (Level.WARNING, "calibrate again, or set self_test_interval_s: 0 to do without")
    ]


def test_another_model_is_served(loop: LoopThread, folder: Path) -> None:
    """A server whose model answers otherwise than the profile's is found, and what to do is said."""
    with embedded(loop, {"digits": folder / "other.onnx"}) as upstream:
        (finding,) = look(policy(folder, upstream))["served model"]
    assert finding.level is Level.PROBLEM
    assert "differs from the one in the profile" in finding.found
    assert "calibrate again" in finding.found


def test_the_profile_is_of_another_model(folder: Path) -> None:
    """A profile that is not of the policy's file is found, and the other checks go on without it."""
    found = look(policy(folder, NOBODY, model="other.onnx"))
    assert levels(found["profiles"]) == {Level.PROBLEM}
    assert "calibrated with another model" in found["profiles"][0].found
    assert "around guard" in found


def test_a_way_round(loop: LoopThread, folder: Path) -> None:
    """A server that other machines reach too is found, with the options that mend it."""
    with embedded(loop, {"digits": folder / "digits.onnx"}, address="0.0.0.0:0") as upstream:
        (finding, _) = look(policy(folder, upstream))["around guard"]
    assert finding.level is Level.PROBLEM
    assert "takes inference by gRPC at 127.0.0.2" in finding.found
    assert "bind it to loopback" in finding.remedy
    assert "--grpc-restricted-protocol" in finding.remedy


def test_the_server_is_down(folder: Path) -> None:
    """Where nothing answers, the model can't be compared, and that is said."""
    (finding,) = look(policy(folder, NOBODY))["served model"]
    assert finding.level is Level.PROBLEM
    assert f"no inference server answers at {NOBODY}" in finding.found


def test_a_running_guard(loop: LoopThread, folder: Path) -> None:
    """What the Guard of this machine says of itself is repeated: ready, or why not."""
    with embedded(loop, {"digits": folder / "digits.onnx"}) as upstream:
        for where, level in ((upstream, Level.OK), (NOBODY, Level.PROBLEM)):
            settings = load_settings(policy(folder, where, admin="127.0.0.1:0"))
            with running(loop, Sidecar(settings)) as sidecar:
                wait_until(sidecar, ready=level is Level.OK)
                (finding,) = look(policy(folder, upstream, admin=f"127.0.0.1:{sidecar.admin_port}"))["guard"]
            assert finding.level is level


@pytest.mark.parametrize(
    ("ends_in", "level", "says"),
    [(DAY * 30, Level.OK, "is good for"), (DAY * 3, Level.WARNING, "ends in 3 days"), (-DAY, Level.PROBLEM, "ended")],
)
def test_certificates(folder: Path, ends_in: timedelta, level: Level, says: str) -> None:
    """A certificate that ends soon is a warning, one that ended a problem."""
    pair = Authority().issue("guard.example", ends_in=ends_in)
    (folder / "crt.pem").write_bytes(pair.certificate)
    (folder / "key.pem").write_bytes(pair.key)
    tls = f", tls: {{certificate_file: {folder}/crt.pem, key_file: {folder}/key.pem}}"
    (finding,) = look(policy(folder, NOBODY, tls=tls))["certificates"]
    assert (finding.level, says in finding.found) == (level, True), finding


def test_the_clock_is_behind(folder: Path) -> None:
    """A profile from the future means that a clock is wrong."""
    profile = plain_profile()
    created = (datetime.now(UTC) + timedelta(days=2)).isoformat(timespec="seconds")
    store.save(replace(profile, provenance=replace(profile.provenance, created=created)), folder / "profile")
    try:
        (finding,) = look(policy(folder, NOBODY))["clock"]
    finally:
        store.save(profile, folder / "profile")
    assert finding.level is Level.PROBLEM
    assert "set this machine's clock" in finding.remedy


def test_limits(folder: Path) -> None:
    """Limits that memory can't hold, or that contradict each other, are warnings that name the setting."""
    path = policy(folder, NOBODY)
    path.write_text(path.read_text() + "limits: {max_inflight_bytes: 9000000000000000}\n")
    assert any("max_inflight_bytes" in finding.remedy for finding in look(path)["limits"])
    path.write_text(path.read_text().replace("9000000000000000", "1024"))
    assert any("upstream.max_message_bytes" in finding.remedy for finding in look(path)["limits"])


def test_unix_sockets() -> None:
    """A server behind a socket file has no address that others could call."""
    settings = Settings(upstream=Upstream(address="unix:/run/triton.sock"), listen=Listen())
    (finding,) = around.reachable_around(settings)
    assert finding.level is Level.OK


def test_no_policy(tmp_path: Path) -> None:
    """A file that is no policy is an error like that of other commands."""
    (tmp_path / "policy.yaml").write_text("modles: {}\n")
    with pytest.raises(ConfigError, match="did you mean models"):
        list(examine(tmp_path / "policy.yaml"))


def test_the_command(folder: Path) -> None:
    """The command prints JSON for machines, and exits with 6 where something must be mended."""
    ended = guard("doctor", policy(folder, NOBODY), "--json", cwd=folder)
    assert (ended.returncode, ended.stderr) == (6, "")
    told = json.loads(ended.stdout)
    assert told["counts"]["problem"] == sum(finding["level"] == "problem" for finding in told["findings"]) == 1


def test_for_people() -> None:
    """A finding is a line, and what to do about it another."""
    assert list(lines(Finding("clock", Level.PROBLEM, "it is 1970", "set it"))) == [
        "problem  clock: it is 1970",
        "         -> set it",
    ]
    assert list(lines(Finding("clock", Level.OK, "it is now"))) == ["ok       clock: it is now"]
