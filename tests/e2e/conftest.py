"""A real Triton, and a Guard in front of it. Both serve the digits classifier under the name `digits`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks.wire.payloads import Payload, write_profile
from guard.app import Sidecar
from guard.config import Mode, ModelPolicy, Unlisted
from guard.model.onnx import OnnxBackend, inspect_onnx
from guard.offline.calibrate import calibrate
from guard.offline.options import Budget, Options
from guard.profile import store
from guard.profile.spec import ConfidenceSpec, Gaussian, SensitivitySpec
from tests.e2e.echo import add_echo
from tests.e2e.house import house, request
from tests.e2e.peer import Peer
from tests.e2e.ways import World, halfway
from tests.support import digits
from tests.support.profiles import plain_profile
from tests.support.sidecars import serving, settings
from tests.support.triton import Triton

FALSE_POSITIVE_RATE = 0.05
THOROUGH = Payload("256 B", "thorough", (1, 8, 8), 1, 0)
ENDLESS = (
    ConfidenceSpec(),
    SensitivitySpec(mutation=Gaussian(sigma=0.1), p0=0.02, p1=0.0201, alpha=1e-6, beta=1e-6, cap=4000),
)
"""The hypotheses are so near each other that nothing is decided before the cap."""
SAMPLES = 80


@pytest.fixture(scope="session")
def triton(digits_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Triton]:
    """The real server."""
    server = Triton(tmp_path_factory.mktemp("triton"), name="digits", onnx=digits_onnx)
    server.start()
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def _triton_runs(triton: Triton) -> Iterator[None]:
    """Each test finds the server running, and shows what the server said where it fails."""
    triton.ensure_running()
    said = len(triton.log.read_bytes())
    yield
    sys.stdout.write(triton.log.read_bytes()[said:].decode(errors="replace"))


@pytest.fixture(scope="session")
def profile(digits_onnx: Path, digits_data: digits.DigitsData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A profile of the digits classifier, its detector network trained for seconds only."""
    directory = tmp_path_factory.mktemp("profile") / "digits"
    info = inspect_onnx(digits_onnx, name="digits", bounds=(0.0, 1.0), dims=(1, 8, 8))
    options = Options(budget=Budget(surrogate_steps=300, network_steps=1000, activation_steps=300, auxiliary_steps=300))
    store.save(calibrate(OnnxBackend(digits_onnx.read_bytes(), info), digits_data.calibration[0], options), directory)
    return directory


@pytest.fixture(scope="session")
def noise_secret(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of all runs, so that each can be repeated."""
    secret = tmp_path_factory.mktemp("secret") / "noise"
    secret.write_bytes(bytes(32))
    return secret


@pytest.fixture(scope="session")
def enforcing(profile: Path, digits_onnx: Path) -> ModelPolicy:
    """The digits under a Guard that rejects what it finds."""
    return ModelPolicy(
        profile=profile,
        model=digits_onnx,
        mode=Mode.ENFORCE,
        false_positive_rate=FALSE_POSITIVE_RATE,
        screening_budget_s=30.0,
    )


@pytest.fixture(scope="session")
def guard_address(triton: Triton, enforcing: ModelPolicy, noise_secret: Path) -> Iterator[str]:
    """Guard in front of the real server, enforcing, and ready."""
    with serving(settings(triton.address, {"digits": enforcing}, noise_secret_file=noise_secret)) as sidecar:
        yield f"127.0.0.1:{sidecar.grpc_port}"


@pytest.fixture(scope="session")
def direct(triton: Triton) -> Iterator[Peer]:
    """A stock client of the real server."""
    with Peer(triton.address) as peer:
        yield peer


@pytest.fixture(scope="session")
def guarded(guard_address: str) -> Iterator[Peer]:
    """A stock client of Guard."""
    with Peer(guard_address) as peer:
        yield peer


@pytest.fixture(scope="session")
def benign(guarded: Peer, digits_data: digits.DigitsData) -> np.ndarray:
    """Eight digits of the test part, (8, 1, 8, 8), that Guard finds clean: it may find one in twenty adversarial."""
    images = digits_data.test[0][:24]
    clean = [image for image in images if guarded.verdict(image[None]) == "clean"]
    assert len(clean) >= 20
    return np.stack(clean[:8])


@pytest.fixture(scope="session")
def adversarial(digits_data: digits.DigitsData) -> np.ndarray:
    """Digits of the test part under attack, (24, 1, 8, 8)."""
    images, labels = digits_data.test
    return digits.attack(digits.trained_network(), images[:24], labels[:24])


@pytest.fixture(scope="session")
def echoing(digits_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Triton]:
    """A Triton with another model beside the digits, which answers with what it is sent."""
    server = Triton(tmp_path_factory.mktemp("echoing"), name="digits", onnx=digits_onnx)
    add_echo(server)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def echo_guard(echoing: Triton, enforcing: ModelPolicy, noise_secret: Path) -> Iterator[Sidecar]:
    """Guard in front of that Triton: it screens the digits, and passes the other model on."""
    chosen = settings(
        echoing.address,
        {"digits": enforcing},
        http=True,
        noise_secret_file=noise_secret,
        unlisted_models=Unlisted.PASS,
    )
    with serving(chosen) as sidecar:
        yield sidecar


@pytest.fixture(scope="module")
def world(
    digits_onnx: Path, digits_data: digits.DigitsData, adversarial: np.ndarray, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    """A house, and what Guard there thinks of some images."""
    folder: Path = tmp_path_factory.mktemp("house")
    store.save(plain_profile(), folder / "profile")
    thorough = write_profile(THOROUGH, digits_onnx, folder, ENDLESS, digits_data.calibration[0][:SAMPLES])
    with house(folder, digits_onnx, folder / "profile", thorough) as built:

        def verdict(image: np.ndarray) -> str | None:
            return built.grpc(request(image[None]).SerializeToString()).verdict

        attack = next(image for image in halfway(digits_data, adversarial) if verdict(image) == "adversarial")
        clean = [image for image in digits_data.test[0][:80] if verdict(image) == "clean"]
        yield World(built, np.stack((clean * 2)[:64]), attack[None])
