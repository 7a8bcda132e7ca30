"""Guard as `guard serve` puts it together, in front of the embedded server, through a stock tritonclient."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from guard.app import Sidecar
from guard.config import Listen, ModelPolicy, Replica
from guard.errors import ConfigError, ProfileError, ProfileMismatch, RateUnsupported
from guard.profile import store
from guard.profile.spec import SmoothingSpec
from guard.values import Action, Mode
from tests.support import digits
from tests.support.loop import LoopThread
from tests.support.profiles import digits_backend, digits_profile
from tests.support.sidecars import Client, Seen, client_of, embedded, running, settings, wait_until

RATE = 0.05
NOWHERE = "127.0.0.1:1"

# The embedded server has the digits model under each of these names, and each is guarded by another policy.
POLICIES: dict[str, dict[str, Any]] = {
    "shadow": {"mode": Mode.SHADOW},
    "flag": {"mode": Mode.FLAG},
    "enforce": {"mode": Mode.ENFORCE},
    "no-model-file": {"mode": Mode.ENFORCE, "replica": Replica.UPSTREAM},
    "certified": {"mode": Mode.ENFORCE, "require_certificate": True},
    "certified-or-rejected": {
        "mode": Mode.ENFORCE,
        "require_certificate": True,
        "on_abstain": Action.REJECT,
    },
    "in-no-time": {"mode": Mode.ENFORCE, "screening_budget_s": 1e-9},
    "in-no-time-flag": {"mode": Mode.ENFORCE, "screening_budget_s": 1e-9, "on_unscreened": Action.FLAG},
    "in-no-time-forward": {"mode": Mode.ENFORCE, "screening_budget_s": 1e-9, "on_unscreened": Action.FORWARD},
    "in-no-time-shadow": {"mode": Mode.SHADOW, "screening_budget_s": 1e-9},
}


@pytest.fixture(scope="module")
def loop() -> Iterator[LoopThread]:
    """Where the servers of this module run."""
    with LoopThread() as thread:
        yield thread


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A profile of the digits model on disk."""
    directory = tmp_path_factory.mktemp("profile")
    store.save(digits_profile(), directory)
    return directory


def policy(profile: Path, **choices: Any) -> ModelPolicy:
    """A policy that leaves screening all the time it needs, on a busy machine too."""
    return ModelPolicy(
        **{
            "profile": profile,
            "model": digits.onnx_file(),
            "false_positive_rate": RATE,
            "screening_budget_s": 60.0,
            "mode": Mode.ENFORCE,
        }
        | choices
    )


@pytest.fixture(scope="module")
def upstream(loop: LoopThread) -> Iterator[str]:
    """The embedded server with the digits model under every name."""
    with embedded(loop, dict.fromkeys(POLICIES, digits.onnx_file())) as address:
        yield address


@pytest.fixture(scope="module")
def secret(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A noise secret, so that a run can be repeated."""
    path = tmp_path_factory.mktemp("secret") / "noise"
    path.write_bytes(bytes(range(32)))
    return path


@pytest.fixture(scope="module")
def client(loop: LoopThread, upstream: str, profile: Path, secret: Path) -> Iterator[Client]:
    """A client of a ready Guard with a model for each policy."""
    models = {name: policy(profile, **choices) for name, choices in POLICIES.items()}
    with running(loop, Sidecar(settings(upstream, models, noise_secret_file=secret))) as sidecar:
        wait_until(sidecar)
        with client_of(sidecar.grpc_port) as guarded:
            yield guarded


@pytest.fixture(scope="module")
def benign(client: Client) -> np.ndarray:
    """A digit that Guard finds clean, (1, 1, 8, 8), and whose label is certain."""
    images = digits.load_data().test[0]
    return next(image[None] for image in images if client.ask("certified", image[None]).verdict == "clean")


@pytest.fixture(scope="module")
def adversarial(client: Client) -> np.ndarray:
    """A digit under attack that Guard finds adversarial, (1, 1, 8, 8)."""
    images, labels = (part[:10] for part in digits.load_data().test)
    attacked = digits.attack(digits.trained_network(), images, labels)
    return next(image[None] for image in attacked if client.ask("enforce", image[None]).verdict == "adversarial")


@pytest.mark.parametrize(
    ("model", "of_benign", "of_adversarial"),
    [
        ("shadow", ("OK", None), ("OK", None)),
        ("flag", ("OK", "clean"), ("OK", "adversarial")),
        ("enforce", ("OK", "clean"), ("PERMISSION_DENIED", "adversarial")),
        ("no-model-file", ("OK", "clean"), ("PERMISSION_DENIED", "adversarial")),
        ("certified", ("OK", "clean"), ("PERMISSION_DENIED", "adversarial")),
        ("in-no-time", ("UNAVAILABLE", "unscreened"), ("UNAVAILABLE", "unscreened")),
        ("in-no-time-flag", ("OK", "unscreened"), ("OK", "unscreened")),
        ("in-no-time-forward", ("OK", "unscreened"), ("OK", "unscreened")),
        ("in-no-time-shadow", ("OK", None), ("OK", None)),
    ],
)
def test_what_a_client_sees(
    client: Client,
    upstream: str,
    benign: np.ndarray,
    adversarial: np.ndarray,
    model: str,
    of_benign: tuple[str, str | None],
    of_adversarial: tuple[str, str | None],
) -> None:
    """Mode and policy decide what is answered, marked and rejected; what is answered is the server's own answer."""
    with client_of(int(upstream.partition(":")[2])) as direct:
        for images, expected in ((benign, of_benign), (adversarial, of_adversarial)):
            seen = client.ask(model, images)
            assert (seen.status, seen.verdict) == expected, seen
            if seen.status == "OK":
                np.testing.assert_array_equal(seen.logits, direct.ask(model, images).logits)


def test_required_certificate(client: Client) -> None:
    """A digit that is clean but can't be certified abstains where a certificate is required, by `on_abstain`."""
    images = digits.load_data().test[0][:100, None]
    clean = [image for image in images if client.ask("enforce", image).verdict == "clean"]
    uncertain = [image for image in clean if client.ask("certified", image).verdict == "abstain"]
    assert 0 < len(uncertain) < len(clean) / 2
    assert client.ask("certified", uncertain[0]).status == "OK"
    rejected = client.ask("certified-or-rejected", uncertain[0])
    assert (rejected.status, rejected.verdict) == ("PERMISSION_DENIED", "abstain")
    assert "could not judge item 0 of 1" in rejected.message


def test_two_models_at_once(client: Client, benign: np.ndarray, adversarial: np.ndarray) -> None:
    """Requests for several models at the same time are each judged by their own policy."""
    asked = [("enforce", adversarial), ("flag", adversarial), ("enforce", benign), ("flag", benign)] * 5
    seen: list[Seen | None] = [None] * len(asked)

    def ask(index: int) -> None:
        seen[index] = client.ask(*asked[index])

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(len(asked))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rejected, flagged = ("PERMISSION_DENIED", "adversarial"), ("OK", "adversarial")
    expected = [rejected, flagged, ("OK", "clean"), ("OK", "clean")] * 5
    assert [(each.status, each.verdict) for each in seen if each is not None] == expected


def test_another_model_is_served(loop: LoopThread, profile: Path, tmp_path: Path) -> None:
    """In front of a model that is not the profile's Guard is not ready, says why, and lets nothing through."""
    other = onnx.load(digits.onnx_file())
    for tensor in other.graph.initializer:
        tensor.CopyFrom(onnx.numpy_helper.from_array(1.5 * onnx.numpy_helper.to_array(tensor), tensor.name))
    onnx.save(other, tmp_path / "other.onnx")
    with (
        embedded(loop, {"digits": tmp_path / "other.onnx"}) as address,
        running(loop, Sidecar(settings(address, {"digits": policy(profile)}))) as sidecar,
        client_of(sidecar.grpc_port) as client,
    ):
        (reason,) = wait_until(sidecar, ready=False, says="differs from the one in the profile")
        assert reason.startswith("digits: ")
        assert reason.endswith("calibrate again for the model that is served")
        seen = client.ask("digits", digits.load_data().test[0][:1])
        assert (seen.status, seen.verdict) == ("UNAVAILABLE", "unscreened")
        assert "could not be verified against its profile" in seen.message


def test_shared_noise_secret(loop: LoopThread, upstream: str, profile: Path, secret: Path, tmp_path: Path) -> None:
    """Guards that share a noise secret find the very same of the same inputs; one with another secret does not."""
    other = tmp_path / "noise"
    other.write_bytes(bytes(32))
    images = digits.load_data().test[0][:24, None]

    def p_values(noise: Path) -> dict[str, float]:
        models = {"enforce": policy(profile)}
        with ExitStack() as stack:
            sidecar = stack.enter_context(running(loop, Sidecar(settings(upstream, models, noise_secret_file=noise))))
            wait_until(sidecar)
            client = stack.enter_context(client_of(sidecar.grpc_port))
            for image in images:
                client.ask("enforce", image)
            (family,) = sidecar.metrics.registry.restricted_registry(["guard_detector_pvalue_ratio_sum"]).collect()
            return {each.labels["detector"]: each.value for each in family.samples if each.name.endswith("_sum")}

    first, again, others = p_values(secret), p_values(secret), p_values(other)
    assert first == again
    assert first["combined"] > 0
    assert first["sensitivity_gaussian"] != others["sensitivity_gaussian"]
    assert first["confidence"] == others["confidence"]  # it draws no noise


@pytest.mark.parametrize("busy", ["address", "admin_address"])
def test_a_failed_start_leaves_nothing_running(loop: LoopThread, profile: Path, busy: str) -> None:
    """Where a port is taken the error says so; threads and the other port are gone, and stopping is still fine."""
    with socket.socket() as taken, socket.socket() as probe:
        for each in (taken, probe):
            each.bind(("127.0.0.1", 0))
        taken.listen()
        free = f"127.0.0.1:{probe.getsockname()[1]}"
        probe.close()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        listen = Listen(**({"address": free, "admin_address": free} | {busy: address}))
        before = _own_threads()
        sidecar = Sidecar(settings(NOWHERE, {"digits": policy(profile)}, listen=listen))
        with pytest.raises(ConfigError, match=f"can't listen on {address}.*set listen.{busy} to another"):
            loop.run(sidecar.start())
        assert _own_threads() == before
        with socket.socket() as again:
            assert again.connect_ex(("127.0.0.1", int(free.partition(":")[2]))) != 0
        loop.run(sidecar.stop())


def _own_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("guard-")}


def test_stopping(loop: LoopThread, profile: Path) -> None:
    """Guard may be stopped twice, or before it started; its threads end and it reports why it is not ready."""
    before = _own_threads()
    never = Sidecar(settings(NOWHERE, {"digits": policy(profile)}))
    loop.run(never.stop())
    sidecar = Sidecar(settings(NOWHERE, {"digits": policy(profile)}))
    loop.run(sidecar.start())
    assert {thread.name for thread in _own_threads() - before} == {"guard-engine", "guard-admin"}
    loop.run(sidecar.stop())
    loop.run(sidecar.stop())
    assert _own_threads() == before
    assert "digits: the screening engine is not running" in sidecar.unready()


def other_replica() -> dict[str, Any]:
    """A replica of a model that is not the profile's."""
    backend = digits_backend()
    backend.info = replace(backend.info, fingerprint="00")
    return {"replicas": {"digits": backend}}


@pytest.mark.parametrize(
    ("choices", "arguments", "error", "says"),
    [
        ({"false_positive_rate": 1e-4}, dict, RateUnsupported, "model 'digits'.*calibrate with more clean samples"),
        ({"profile": Path("/nowhere")}, dict, ProfileError, "holds no profile.*guard calibrate"),
        ({"model": None}, dict, ConfigError, "needs `model`, the ONNX file"),
        ({"model": Path(__file__)}, dict, ProfileMismatch, "calibrated with another model than .*test_app.py"),
        ({}, other_replica, ProfileMismatch, "another model than the replica given"),
    ],
)
def test_what_is_wrong_is_found_before_a_port_is_opened(
    profile: Path, choices: dict[str, Any], arguments: Any, error: type[Exception], says: str
) -> None:
    """A profile, rate or model file that can't be used is an error of the constructor, which says what to do."""
    with pytest.raises(error, match=says):
        Sidecar(settings(NOWHERE, {"digits": policy(profile, **choices)}), **arguments())


def test_a_secret_that_is_not_there(profile: Path, tmp_path: Path) -> None:
    """A noise secret that can't be read is an error, never a reason to draw another."""
    with pytest.raises(ConfigError, match="noise_secret_file .*gone can't be read .*correct it or leave it out"):
        Sidecar(settings(NOWHERE, {"digits": policy(profile)}, noise_secret_file=tmp_path / "gone"))


def test_certificates_need_a_detector(tmp_path: Path) -> None:
    """To require certificates of a profile that can't give any is refused: it would abstain on everything."""
    whole = digits_profile()
    kept = tuple(spec for spec in whole.detectors if not isinstance(spec, SmoothingSpec))
    store.save(replace(whole, detectors=kept), tmp_path)
    with pytest.raises(ConfigError, match="`require_certificate` needs a profile with a smoothing detector"):
        Sidecar(settings(NOWHERE, {"digits": policy(tmp_path, require_certificate=True)}))
