"""Hot reload: what changes while Guard runs, what goes on as it was, and what is refused."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from guard.app.policy import load_policy
from guard.errors import ConfigError
from guard.profile import store
from tests.app.reloads import exported, reloading, reloads, replace, write
from tests.support import digits
from tests.support.loop import LoopThread
from tests.support.sidecars import client_of, embedded, wait_until
from tests.support.waiting import wait_for


@pytest.fixture(scope="module")
def upstream(loop: LoopThread) -> Iterator[str]:
    """The embedded server with the digits model under two names."""
    with embedded(loop, dict.fromkeys(("digits", "more"), digits.onnx_file())) as address:
        yield address


@pytest.fixture
def folder(profile: Path, tmp_path: Path) -> Path:
    """A folder with a profile and its model, each of which tests may replace."""
    shutil.copytree(profile, tmp_path / "profile")
    shutil.copy(digits.onnx_file(), tmp_path / "digits.onnx")
    return tmp_path


def guarded(**choices: Any) -> dict[str, Any]:
    """A policy for the model of the folder."""
    common = {"profile": "profile", "model": "digits.onnx", "mode": "flag", "false_positive_rate": 0.05}
    return common | {"screening_budget_s": 60.0} | choices


ENGINE_THREADS = ("guard-engine", "guard-evaluator")
IMAGES = digits.load_data().test[0]
BUSY = 'guard_engine_busy_seconds_total{model="digits"}'


def test_another_mode(loop: LoopThread, folder: Path, upstream: str) -> None:
    """A changed mode holds for the next request. The engine runs on, with what it remembers of queries and of drift."""
    policy = folder / "policy.yaml"
    write(policy, upstream, {"digits": guarded(mode="shadow")})
    with reloading(loop, policy) as (sidecar, _), client_of(sidecar.grpc_port) as client:
        wait_until(sidecar)
        assert client.ask("digits", IMAGES[:8]).verdict is None
        before = sidecar.in_force
        write(policy, upstream, {"digits": guarded(mode="flag")})
        wait_for(lambda: sidecar.in_force is not before)
        assert client.ask("digits", IMAGES[8:9]).verdict in {"clean", "adversarial"}
        old, new = (force.models["digits"].model for force in (before, sidecar.in_force))
        assert (new.engine, new.watch, new.drift) == (old.engine, old.watch, old.drift)
        assert new.engine.alive
        assert new.watch is not None
        wait_for(lambda: len(new.watch) == 9)  # nobody waited for the first eight
        wait_for(lambda: reloads(sidecar, "swapped") == 1)
        clean = 'guard_items_total{model="digits",verdict="clean"}'
        wait_for(lambda: exported(sidecar)[clean] >= 7)  # counters go on
        metrics = exported(sidecar)
        assert metrics['guard_policy_mode{mode="flag",model="digits"}'] == 1
        assert metrics['guard_policy_mode{mode="shadow",model="digits"}'] == 0
        assert 0 < metrics[BUSY] <= new.engine.busy_s
        versions = [series for series in metrics if series.startswith("guard_policy_info")]
        assert versions == [f'guard_policy_info{{version="{sidecar.in_force.version}"}}']
        assert sidecar.in_force.version != before.version


def test_another_rate(loop: LoopThread, folder: Path, upstream: str) -> None:
    """A stricter rate takes another engine, and the threads of the first end; queries are remembered on."""
    policy = folder / "policy.yaml"
    write(policy, upstream, {"digits": guarded()})
    others = set(threading.enumerate())
    with reloading(loop, policy) as (sidecar, _), client_of(sidecar.grpc_port) as client:
        wait_until(sidecar)
        client.ask("digits", IMAGES[:4])
        threads, old = set(threading.enumerate()) - others, sidecar.in_force.models["digits"].model
        write(policy, upstream, {"digits": guarded(false_positive_rate=0.01)})
        wait_for(lambda: reloads(sidecar, "swapped") == 1)
        new = sidecar.in_force.models["digits"].model
        assert new.engine is not old.engine
        assert new.watch is old.watch
        assert not old.engine.alive
        engines = [each for each in set(threading.enumerate()) - others if each.name in ENGINE_THREADS]
        assert len(engines) == 2
        assert not threads & set(engines)
        assert sidecar.unready() == []
        assert client.ask("digits", IMAGES[4:5]).verdict in {"clean", "adversarial"}
        assert 0 < exported(sidecar)[BUSY] <= new.engine.busy_s  # the first engine's time is not in it


def test_a_model_comes_and_another_goes(loop: LoopThread, folder: Path, upstream: str) -> None:
    """A model that is new in the policy is guarded; one that is no longer there is refused, and leaves the metrics."""
    policy = folder / "policy.yaml"
    write(policy, upstream, {"digits": guarded()})
    with reloading(loop, policy) as (sidecar, _), client_of(sidecar.grpc_port) as client:
        wait_until(sidecar)
        assert client.ask("digits", IMAGES[:1]).status == "OK"
        assert client.ask("more", IMAGES[:1]).status == "PERMISSION_DENIED"
        write(policy, upstream, {"more": guarded()})
        wait_for(lambda: reloads(sidecar, "swapped") == 1)
        assert client.ask("more", IMAGES[:1]).verdict in {"clean", "adversarial"}
        refused = client.ask("digits", IMAGES[:1])
        assert refused.status == "PERMISSION_DENIED"
        assert "'digits' is not under guard" in refused.message
        assert not [series for series in exported(sidecar) if 'model="digits"' in series]
        assert exported(sidecar)['guard_policy_mode{mode="flag",model="more"}'] == 1


def test_mounted_config(loop: LoopThread, folder: Path, upstream: str) -> None:
    """Files behind symbolic links, one of which is led elsewhere, are loaded again, as a mounted ConfigMap needs it."""
    first, second, mount = folder / "..1", folder / "..2", folder / "mount"
    for made, mode in ((first, "shadow"), (second, "flag")):
        shutil.copytree(folder / "profile", made / "profile")
        shutil.copy(folder / "digits.onnx", made)
        write(made / "policy.yaml", upstream, {"digits": guarded(mode=mode)})
    mount.mkdir()
    (mount / "..data").symlink_to(first)
    for name in ("policy.yaml", "profile", "digits.onnx"):
        (mount / name).symlink_to(Path("..data", name))
    with reloading(loop, mount / "policy.yaml") as (sidecar, _):
        engine = sidecar.in_force.models["digits"].model.engine
        (mount / "..data.new").symlink_to(second)
        (mount / "..data.new").rename(mount / "..data")
        wait_for(lambda: reloads(sidecar, "swapped") == 1)
        assert sidecar.in_force.models["digits"].model.policy.mode == "flag"
        assert sidecar.in_force.models["digits"].model.engine is engine  # profile and model say what they said


BAD = {
    "no YAML": "models: [",
    "a mode that there is not": "models: {digits: {profile: profile, model: digits.onnx, mode: enfroce}}",
    "a profile that is not there": "models: {digits: {profile: gone, model: digits.onnx}}",
    "a rate out of reach": (
        "models: {digits: {profile: profile, model: digits.onnx, false_positive_rate: 0.0001}, other: {profile: gone}}"
    ),
    "an odd name": "models: {digits@: {profile: profile, model: digits.onnx}}",
}


def test_bad_policies(loop: LoopThread, folder: Path, upstream: str) -> None:
    """A bad policy changes nothing, shows in the metrics, and is told as check-config would. A good one mends it."""
    policy = folder / "policy.yaml"
    write(policy, upstream, {"digits": guarded()})
    good = policy.read_text()
    with reloading(loop, policy) as (sidecar, _), client_of(sidecar.grpc_port) as client:
        wait_until(sidecar)
        before = sidecar.in_force
        for number, text in enumerate(BAD.values(), start=1):
            replace(policy, text)
            wait_for(lambda: reloads(sidecar, "refused") == number)  # noqa: B023 - it is called here
            assert exported(sidecar)["guard_config_last_reload_successful"] == 0
            with pytest.raises(ConfigError) as checked:
                load_policy(policy)
            assert sidecar.refused == str(checked.value)
            assert (
                sidecar._policy() == f"policy {before.version}\ndigits: flag\n\nanother was refused:\n{checked.value}"
            )
            assert sidecar.in_force is before
            assert client.ask("digits", IMAGES[:1]).verdict in {"clean", "adversarial"}
            replace(policy, good)
            wait_for(lambda: reloads(sidecar, "unchanged") == number)  # noqa: B023 - as above
            before = sidecar.in_force
            assert exported(sidecar)["guard_config_last_reload_successful"] == 1
            assert sidecar._policy() == f"policy {before.version}\ndigits: flag"


@pytest.mark.parametrize(
    ("file", "says"),
    [("profile/scores.npz", "scores.npz is not the file"), ("digits.onnx", "calibrated with another model than")],
)
def test_a_damaged_file(loop: LoopThread, folder: Path, upstream: str, file: str, says: str) -> None:
    """A profile or a model that was damaged is refused, and the one that was loaded goes on; put back, all is well."""
    policy = folder / "policy.yaml"
    write(policy, upstream, {"digits": guarded()})
    good = (folder / file).read_bytes()
    with reloading(loop, policy) as (sidecar, _), client_of(sidecar.grpc_port) as client:
        wait_until(sidecar)
        engine = sidecar.in_force.models["digits"].model.engine
        (folder / file).write_bytes(good[:-9])
        wait_for(lambda: reloads(sidecar, "refused") == 1)
        assert says in sidecar.refused
        assert client.ask("digits", IMAGES[:1]).verdict in {"clean", "adversarial"}
        (folder / file).write_bytes(good)
        wait_for(lambda: reloads(sidecar, "unchanged") == 1)
        assert sidecar.in_force.models["digits"].model.engine is engine


def test_another_profile(loop: LoopThread, folder: Path, upstream: str) -> None:
    """A profile that was calibrated again takes the place of the one before, with an engine and a memory of its own."""
    policy = folder / "policy.yaml"
    write(policy, upstream, {"digits": guarded()})
    with reloading(loop, policy) as (sidecar, _), client_of(sidecar.grpc_port) as client:
        wait_until(sidecar)
        client.ask("digits", IMAGES[:4])
        old = sidecar.in_force
        profile = store.load(folder / "profile")
        fewer = profile.calibration.labels[:-1]
        scores = {name: values[:-1] for name, values in profile.calibration.scores.items()}
        calibration = type(profile.calibration)(fewer, scores)
        store.save(_with(profile, calibration=calibration), folder / "profile")
        wait_for(lambda: reloads(sidecar, "swapped") == 1)
        new = sidecar.in_force
        assert new.version != old.version
        assert exported(sidecar)['guard_profile_calibration_samples{model="digits"}'] == len(fewer)
        assert sidecar.unready() == []  # the served model was compared with it before the swap
        watch = new.models["digits"].model.watch
        assert watch is not None
        assert len(watch) == 0
        assert client.ask("digits", IMAGES[:1]).verdict in {"clean", "adversarial"}


def _with(profile: Any, **changes: Any) -> Any:
    """A profile with changes, whose class is frozen."""
    from dataclasses import replace as changed  # noqa: PLC0415 - its name is taken

    return changed(profile, **changes)


def test_settings_that_take_a_restart(loop: LoopThread, folder: Path, upstream: str) -> None:
    """What can't change while Guard runs is refused by name, and nothing else of that policy is put in force."""
    policy = folder / "policy.yaml"
    secret = folder / "secret"
    secret.write_bytes(bytes(32))
    others: dict[str, Any] = {"noise_secret_file": "secret"}
    write(policy, upstream, {"digits": guarded()}, **others)
    with reloading(loop, policy) as (sidecar, reload):
        before = sidecar.in_force
        limits = {"max_queued_items": 7}
        write(policy, "127.0.0.1:1", {"digits": guarded(mode="shadow")}, limits=limits, **others)
        wait_for(lambda: reloads(sidecar, "refused") == 1)
        for setting in ("upstream.address", "limits.max_queued_items"):
            assert f"{setting} can't change while guard runs; restart guard" in sidecar.refused
        assert sidecar.in_force is before
        secret.write_bytes(bytes(range(32)))
        write(policy, upstream, {"digits": guarded(mode="shadow")}, **others)
        wait_for(lambda: reloads(sidecar, "refused") == 2)
        assert "noise_secret_file can't change" in sidecar.refused
        assert sidecar.in_force is before
        secret.write_bytes(bytes(32))
        reload.at_once()
        wait_for(lambda: reloads(sidecar, "swapped") == 1)


def test_at_once(loop: LoopThread, folder: Path, upstream: str) -> None:
    """Asked to, Guard reads its policy at once, whether it changed or not."""
    policy = folder / "policy.yaml"
    write(policy, upstream, {"digits": guarded()})
    with reloading(loop, policy, poll_s=3600) as (sidecar, reload):
        loop.run(_call(reload.at_once))
        wait_for(lambda: reloads(sidecar, "unchanged") == 1)
        write(policy, upstream, {"digits": guarded(mode="shadow")})
        loop.run(_call(reload.at_once))
        wait_for(lambda: reloads(sidecar, "swapped") == 1)


async def _call(what: Any) -> None:
    what()


def test_a_file_is_left_alone_while_it_is_written(loop: LoopThread, folder: Path, upstream: str) -> None:
    """A file that keeps changing is read once it stays as it is: half of it would be refused."""
    policy = folder / "policy.yaml"
    write(policy, upstream, {"digits": guarded()})
    good = policy.read_text()
    with reloading(loop, policy, poll_s=1.0) as (sidecar, _):
        for length in range(80):
            policy.write_text(good[:length])
            threading.Event().wait(0.05)
        policy.write_text(good)
        wait_for(lambda: reloads(sidecar, "unchanged") == 1)
        assert reloads(sidecar, "refused") == 0


def test_no_model(loop: LoopThread, folder: Path, upstream: str) -> None:
    """Without a model under guard, Guard is ready when the server is, and says so where it is not."""
    policy = folder / "policy.yaml"
    write(policy, "127.0.0.1:1", {}, unlisted_models="pass")
    with reloading(loop, policy) as (sidecar, _):
        (reason,) = wait_until(sidecar, ready=False, says="no inference server answers at 127.0.0.1:1")
        assert "is it running" in reason
    write(policy, upstream, {}, unlisted_models="pass")
    with reloading(loop, policy) as (sidecar, _), client_of(sidecar.grpc_port) as client:
        wait_until(sidecar)
        assert client.ask("digits", IMAGES[:1]).verdict == "unscreened"
        write(policy, upstream, {"digits": guarded()}, unlisted_models="pass")
        wait_for(lambda: reloads(sidecar, "swapped") == 1)
        assert client.ask("digits", IMAGES[:1]).verdict in {"clean", "adversarial"}
        assert np.array_equal(client.ask("more", IMAGES[:1]).logits, client.ask("digits", IMAGES[:1]).logits)
