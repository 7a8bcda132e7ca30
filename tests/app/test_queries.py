"""Query attacks on a running Guard, as a stock client sees them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from guard.app import Sidecar
from guard.config import Queries
from guard.errors import ConfigError
from guard.profile import store
from guard.profile.profile import Profile
from guard.queries.calibrate import radii_of
from tests.app.parts import NOWHERE, policy
from tests.support import digits
from tests.support.loop import LoopThread
from tests.support.profiles import digits_profile
from tests.support.sidecars import Client, client_of, embedded, running, settings, wait_until

POLICIES = {"reject": Queries.REJECT, "report": Queries.REPORT, "skip": Queries.SKIP}


@pytest.fixture(scope="module")
def compared() -> Profile:
    """A profile that knows how far apart digits are."""
    return replace(digits_profile(), query_radii=radii_of(digits.load_data().calibration[0], (0.0, 1.0)))


@pytest.fixture(scope="module")
def sidecar(
    loop: LoopThread, compared: Profile, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Sidecar, Client]]:
    """A ready Guard with a model for each policy, and its client."""
    folder = tmp_path_factory.mktemp("compared")
    store.save(compared, folder)
    with embedded(loop, dict.fromkeys(POLICIES, digits.onnx_file())) as upstream:
        models = {name: policy(folder, queries=choice) for name, choice in POLICIES.items()}
        with running(loop, Sidecar(settings(upstream, models))) as started:
            wait_until(started)
            with client_of(started.grpc_port) as client:
                yield started, client


@pytest.fixture(scope="module")
def clean(sidecar: tuple[Sidecar, Client]) -> np.ndarray:
    """A digit that stays clean under a little noise, (1, 1, 8, 8)."""
    _, client = sidecar
    images = digits.load_data().test[0]
    return next(
        x[None] for x in images if all(client.ask("skip", v).verdict == "clean" for v in variations(x[None], 8))
    )


def variations(image: np.ndarray, count: int) -> list[np.ndarray]:
    """What an attacker who estimates a gradient sends."""
    noise = np.random.default_rng(0).normal(0, 0.005, (count, *image.shape))
    return [np.clip(image + each, 0, 1).astype(np.float32) for each in noise]


def counted(sidecar: Sidecar, name: str, model: str) -> float | None:
    """A series of a model."""
    return sidecar.metrics.registry.get_sample_value(name, {"model": model})


def test_variations_are_rejected(sidecar: tuple[Sidecar, Client], clean: np.ndarray) -> None:
    """The fourth variation of an image and all after it are rejected, though each of them alone is clean."""
    guard, client = sidecar
    seen = [client.ask("reject", each) for each in variations(clean, 8)]
    assert [each.status for each in seen] == ["OK"] * 3 + ["PERMISSION_DENIED"] * 5
    assert {each.verdict for each in seen[3:]} == {"adversarial"}
    assert "queries" not in seen[-1].message  # no name of a detector leaves Guard
    assert counted(guard, "guard_suspicious_queries_total", "reject") == 5
    assert counted(guard, "guard_remembered_queries", "reject") == 8


def test_reported_only(sidecar: tuple[Sidecar, Client], clean: np.ndarray) -> None:
    """Where the policy reports, the same is answered, and counted."""
    guard, client = sidecar
    assert {client.ask("report", each).verdict for each in variations(clean, 8)} == {"clean"}
    assert counted(guard, "guard_suspicious_queries_total", "report") == 5


def test_retries(sidecar: tuple[Sidecar, Client]) -> None:
    """A client that sends the same image over and over is let be."""
    _, client = sidecar
    image = digits.load_data().test[0][-1:]
    answers = {client.ask("reject", image).verdict for _ in range(10)}
    assert answers == {client.ask("skip", image).verdict}


def test_nothing_is_remembered(sidecar: tuple[Sidecar, Client], clean: np.ndarray) -> None:
    """Where the policy skips it, nothing is remembered."""
    guard, client = sidecar
    client.ask("skip", clean)
    assert counted(guard, "guard_suspicious_queries_total", "skip") == 0
    assert counted(guard, "guard_remembered_queries", "skip") is None


def test_a_profile_without_distances(compared: Profile, tmp_path: Path) -> None:
    """To reject by a profile that does not know how far apart benign images are is refused at start."""
    store.save(replace(compared, query_radii=None), tmp_path)
    with pytest.raises(ConfigError, match=r"`queries: reject` needs a profile .* calibrate again, or, where inputs"):
        Sidecar(settings(NOWHERE, {"digits": policy(tmp_path, queries=Queries.REJECT)}))
