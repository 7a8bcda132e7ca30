"""Guard in front of the embedded server: what a stock tritonclient sees under each policy."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from guard.app import Sidecar
from guard.config import Certify, Replica
from guard.values import Action, Mode
from tests.app.parts import policy
from tests.support import digits
from tests.support.loop import LoopThread
from tests.support.sidecars import Client, Seen, client_of, embedded, running, settings, wait_until

# The embedded server has the digits model under each of these names, and each is guarded by another policy.
POLICIES: dict[str, dict[str, Any]] = {
    "shadow": {"mode": Mode.SHADOW},
    "flag": {"mode": Mode.FLAG},
    "enforce": {"mode": Mode.ENFORCE},
    "no-model-file": {"mode": Mode.ENFORCE, "replica": Replica.UPSTREAM},
    "certified": {"mode": Mode.ENFORCE, "certificate": Certify.REQUIRE},
    "certified-or-rejected": {
        "mode": Mode.ENFORCE,
        "certificate": Certify.REQUIRE,
        "on_abstain": Action.REJECT,
    },
    "in-no-time": {"mode": Mode.ENFORCE, "screening_budget_s": 1e-9},
    "in-no-time-flag": {"mode": Mode.ENFORCE, "screening_budget_s": 1e-9, "on_unscreened": Action.FLAG},
    "in-no-time-forward": {"mode": Mode.ENFORCE, "screening_budget_s": 1e-9, "on_unscreened": Action.FORWARD},
    "in-no-time-shadow": {"mode": Mode.SHADOW, "screening_budget_s": 1e-9},
}


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
    ("model", "of_benign_and_adversarial"),
    [
        ("shadow", [("OK", None), ("OK", None)]),
        ("flag", [("OK", "clean"), ("OK", "adversarial")]),
        ("enforce", [("OK", "clean"), ("PERMISSION_DENIED", "adversarial")]),
        ("no-model-file", [("OK", "clean"), ("PERMISSION_DENIED", "adversarial")]),
        ("certified", [("OK", "clean"), ("PERMISSION_DENIED", "adversarial")]),
        ("in-no-time", [("UNAVAILABLE", "unscreened"), ("UNAVAILABLE", "unscreened")]),
        ("in-no-time-flag", [("OK", "unscreened"), ("OK", "unscreened")]),
        ("in-no-time-forward", [("OK", "unscreened"), ("OK", "unscreened")]),
        ("in-no-time-shadow", [("OK", None), ("OK", None)]),
    ],
)
def test_what_a_client_sees(  # noqa: PLR0917 - fixtures
    client: Client,
    upstream: str,
    benign: np.ndarray,
    adversarial: np.ndarray,
    model: str,
    of_benign_and_adversarial: list[tuple[str, str | None]],
) -> None:
    """Mode and policy decide what is answered, marked and rejected; what is answered is the server's own answer."""
    with client_of(int(upstream.partition(":")[2])) as direct:
        for images, expected in zip((benign, adversarial), of_benign_and_adversarial, strict=True):
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
