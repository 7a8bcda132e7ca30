"""What the doctor says of real deployments, well and ill."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import onnxruntime
import pytest

from guard.app import Sidecar
from guard.cli.doctor import lines
from guard.config_file import load_settings
from guard.doctor import Finding, Level, examine
from guard.doctor.clock import Kept, clock, kept_by_kernel
from guard.errors import ConfigError
from guard.profile import store
from tests.doctor.parts import NOBODY, levels, look, policy
from tests.support.certificates import DAY, Authority
from tests.support.command import guard
from tests.support.loop import LoopThread
from tests.support.profiles import plain_profile
from tests.support.sidecars import embedded, running, wait_until


def test_all_is_well(loop: LoopThread, folder: Path) -> None:
    """Of a sound deployment nothing is wrong: profile, server and installation fit, and there is no way round."""
    with embedded(loop, {"digits": folder / "digits.onnx"}) as upstream:
        found = look(policy(folder, upstream))
    of_the_machine = {"limits", "clock"}
    assert of_the_machine <= set(found)
    assert {check: levels(findings) for check, findings in found.items() if check not in of_the_machine} == {
        "profiles": {Level.OK},
        "provider": {Level.OK},
        "served model": {Level.OK},
        "around guard": {Level.OK},
        "guard": {Level.NOTE},
        "certificates": {Level.OK},
    }
    assert found["provider"][0].found == "digits: runs on CPUExecutionProvider"
    (clock,) = found["clock"]
    assert clock.level is not Level.PROBLEM
    assert "UTC, after all profiles were made" in clock.found


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


def test_the_gpu_is_there(loop: LoopThread, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where ONNX Runtime has CUDA and the policy does not use it, that is said, and what really runs the model."""
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    with embedded(loop, {"digits": folder / "digits.onnx"}) as upstream:
        (finding,) = look(policy(folder, upstream))["provider"]
    assert finding.level is Level.NOTE
    assert finding.found == "digits: runs on CPUExecutionProvider, and CUDA is there"
    assert finding.remedy == "set device: cuda to use it"


@pytest.mark.skipif("CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="CUDA is there")
def test_the_gpu_is_missing(folder: Path) -> None:
    """A GPU that the policy asks for and that isn't there is one problem of the provider, with what to do."""
    path = policy(folder, NOBODY)
    path.write_text(path.read_text().replace("mode: enforce", "mode: enforce, device: cuda"))
    found = look(path)
    (finding,) = found["provider"]
    assert "profiles" not in found
    assert (finding.level, finding.found) == (
        Level.PROBLEM,
        f"{path}:5: ONNX Runtime could not load CUDAExecutionProvider and fell back to CPUExecutionProvider",
    )
    assert finding.remedy.startswith("check that `nvidia-smi` lists a GPU")
    assert "pip install '.[gpu]'" in finding.remedy


@pytest.mark.parametrize(
    ("wrong", "says", "remedy"),
    [
        ("false_positive_rate: 0.0001", "needs 9999", "calibrate with more clean samples, or ask for 0.0032 or more"),
        ("certificate: require, certified_radius: 1000", "takes more copies than screening can afford", "ask for 0."),
    ],
)
def test_what_to_do_about_a_model(folder: Path, wrong: str, says: str, remedy: str) -> None:
    """Whatever keeps a model from being loaded, what is wrong and what to do about it are told apart."""
    path = policy(folder, NOBODY)
    text = path.read_text().replace(", false_positive_rate: 0.05", "")
    path.write_text(text.replace("mode: enforce", f"mode: enforce, {wrong}"))
    (finding,) = look(path)["profiles"]
    assert says in finding.found
    assert finding.remedy.startswith(remedy)


@pytest.mark.parametrize("wanted", ["query_store: {url: 'redis://127.0.0.1:1'}", "tracing: {address: '127.0.0.1:1'}"])
def test_what_to_do_about_the_installation(folder: Path, wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that the policy needs and that is not installed is a problem with its command."""
    monkeypatch.setattr("guard.environment._is_installed", lambda _name: False)
    path = policy(folder, NOBODY)
    path.write_text(f"{wanted}\n{path.read_text()}")
    (finding,) = look(path)["installation"]
    assert "installed" in finding.found
    assert finding.remedy.startswith("install ")
    assert "pip install '.[" in finding.remedy


def test_a_sound_model_beside_a_mistaken_one(folder: Path) -> None:
    """What was not looked at, because another model can't be loaded, is named."""
    path = policy(folder, NOBODY, model="other.onnx")
    line = path.read_text().splitlines()[-1]
    path.write_text(path.read_text() + line.replace("digits:", "sound:").replace("other.onnx", "digits.onnx") + "\n")
    (finding,) = look(path)["models"]
    assert finding.level is Level.NOTE
    assert finding.found.startswith("digits, sound: not looked at further")
    assert "look again" in finding.remedy


def test_the_server_is_down(folder: Path) -> None:
    """Where nothing answers, the model can't be compared, nor a way round seen, and that is said."""
    found = look(policy(folder, NOBODY))
    (finding,) = found["served model"]
    assert finding.level is Level.PROBLEM
    assert f"no inference server answers at {NOBODY}" in finding.found
    (finding,) = found["around guard"]
    assert finding.level is Level.NOTE
    assert f"no server answers at {NOBODY}, so whether there is a way round Guard can't be seen" in finding.found


def test_a_running_guard(loop: LoopThread, folder: Path) -> None:
    """What the Guard of this machine says of itself is repeated: ready, or why not."""
    with embedded(loop, {"digits": folder / "digits.onnx"}) as upstream:
        for where, level in ((upstream, Level.OK), (NOBODY, Level.PROBLEM)):
            settings = load_settings(policy(folder, where, admin="127.0.0.1:0"))
            with running(loop, Sidecar(settings)) as sidecar:
                wait_until(sidecar, ready=level is Level.OK)
                (finding,) = look(policy(folder, upstream, admin=f"127.0.0.1:{sidecar.admin_port}"))["guard"]
            assert finding.level is level


def test_a_proxy(loop: LoopThread, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether a Guard runs here is asked of this machine, not of a proxy that the environment names."""
    with embedded(loop, {"digits": folder / "digits.onnx"}) as upstream:
        settings = load_settings(policy(folder, upstream, admin="127.0.0.1:0"))
        with running(loop, Sidecar(settings)) as proxy:  # whose admin port answers 404 to what is no path of its own
            monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.admin_port}")
            monkeypatch.delenv("no_proxy", raising=False)
            (finding,) = look(policy(folder, upstream))["guard"]
    assert (finding.level, finding.found) == (Level.NOTE, f"no Guard answers at http://{NOBODY}/readyz")


@pytest.mark.parametrize(
    ("ends_in", "level", "says"),
    [
        (DAY * 30, Level.OK, "is good for 30 days"),
        (DAY * 3, Level.WARNING, "ends in 3 days"),
        (DAY / 4, Level.WARNING, "ends in less than a day"),
        (-DAY, Level.PROBLEM, "ended 1 day ago"),
    ],
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


@pytest.mark.parametrize(
    ("kept", "level", "says"),
    [
        (
            Kept(synchronised=True, most_off_s=0.0123, shows_s=0.0),
            Level.OK,
            "a time server keeps it, to within 0.012 s",
        ),
        (Kept(synchronised=False, most_off_s=16.0, shows_s=0.0), Level.WARNING, "it may be ahead or behind"),
        (None, Level.NOTE, "whether it is ahead can't be seen here"),
    ],
)
def test_who_keeps_the_clock(kept: Kept | None, level: Level, says: str) -> None:
    """A clock that no time server keeps may be ahead too, and where that can't be known it is said."""
    (finding,) = clock({}, lambda: kept)
    assert finding.level is level
    assert says in finding.found
    assert bool(finding.remedy) is (level is not Level.OK)


def test_what_the_kernel_says_of_its_clock() -> None:
    """It is read where it stands: the time that it shows is that of the system, and the error that it admits is one."""
    kept = kept_by_kernel()
    if kept is None:
        pytest.skip("this kernel does not say")
    assert abs(kept.shows_s - time.time()) < 60
    assert 0 <= kept.most_off_s <= 60


def test_limits(folder: Path) -> None:
    """Limits that memory can't hold, or that contradict each other, are warnings that name the setting."""
    path = policy(folder, NOBODY)
    path.write_text(path.read_text() + "limits: {max_inflight_bytes: 9000000000000000}\n")
    assert any("max_inflight_bytes" in finding.remedy for finding in look(path)["limits"])
    path.write_text(path.read_text().replace("9000000000000000", "1024"))
    assert any("upstream.max_message_bytes" in finding.remedy for finding in look(path)["limits"])


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
