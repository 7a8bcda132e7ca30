"""A real Guard for clients of it, in front of the embedded server."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from guard.app import Sidecar
from guard.config import Listen, Mode, ModelPolicy, ScreenOnly
from guard.profile import store
from tests.support import ports
from tests.support.digits import DigitsData, attack, trained_network
from tests.support.loop import LoopThread
from tests.support.profiles import plain_profile
from tests.support.sidecars import client_of, embedded, running, settings, wait_until


@dataclass(frozen=True)
class World:
    """Guard, the server behind it, an image that it finds clean, and one that it rejects, (1, 1, 8, 8)."""

    guard: Sidecar
    server: str
    clean: np.ndarray
    attack: np.ndarray

    @property
    def ports(self) -> tuple[int, int]:
        """Guard's, of gRPC and of HTTP."""
        return self.guard.grpc_port, self.guard.http_port


@pytest.fixture
def free_address() -> str:
    """An address on which nothing listens."""
    return ports.free_address()


@pytest.fixture(scope="session")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A profile of the digits classifier."""
    folder: Path = tmp_path_factory.mktemp("profile") / "digits"
    store.save(plain_profile(), folder)
    return folder


@pytest.fixture(scope="session")
def loop() -> Iterator[LoopThread]:
    """Where servers run."""
    with LoopThread() as thread:
        yield thread


@pytest.fixture(scope="session")
def world(loop: LoopThread, profile: Path, digits_onnx: Path, digits_data: DigitsData) -> Iterator[World]:
    """Guard enforces for `digits`, marks for `flagged`, and only watches `watched`."""
    models = {
        name: ModelPolicy(
            profile=profile, model=digits_onnx, mode=mode, false_positive_rate=0.05, screening_budget_s=30.0
        )
        for name, mode in (("digits", Mode.ENFORCE), ("flagged", Mode.FLAG), ("watched", Mode.SHADOW))
    }
    listen = Listen(address="127.0.0.1:0", http_address="127.0.0.1:0", admin_address="127.0.0.1:0")
    with embedded(loop, dict.fromkeys(models, digits_onnx)) as server:
        sidecar = Sidecar(settings(server, models, listen=listen, screen_only=ScreenOnly.ALLOW))
        with running(loop, sidecar) as guard:
            wait_until(guard)
            yield World(guard, server, *_images(guard, digits_data))


def _images(guard: Sidecar, data: DigitsData) -> tuple[np.ndarray, np.ndarray]:
    """An image that Guard finds clean, and one halfway to an attack that it rejects: of those the model is not sure."""
    images, labels = data.test[0][:40], data.test[1][:40]
    halfway = images + 0.5 * (attack(trained_network(), images, labels) - images)
    with client_of(guard.grpc_port) as stock:

        def first(candidates: np.ndarray, verdict: str) -> np.ndarray:
            return next(x[None] for x in candidates if stock.ask("digits", x[None]).verdict == verdict)

        return first(images, "clean"), first(halfway.astype(np.float32), "adversarial")
