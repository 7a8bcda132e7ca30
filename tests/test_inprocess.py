"""Guard as a library."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from guard.errors import ConfigError, MalformedRequest, NonFiniteInput, ProfileMismatch
from guard.inprocess import Guard
from guard.profile import store
from guard.values import Action, Mode, Verdict
from tests.support.digits import DigitsData, attack, trained_network
from tests.support.profiles import digits_backend, plain_profile


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A profile of the digits classifier."""
    folder: Path = tmp_path_factory.mktemp("profile") / "digits"
    store.save(plain_profile(), folder)
    return folder


@pytest.fixture(scope="module")
def guard(profile: Path, digits_onnx: Path) -> Iterator[Guard]:
    """It, enforcing."""
    secret = profile.parent / "secret"
    secret.write_bytes(b"s" * 32)  # so that a run can be repeated
    options = {"false_positive_rate": 0.05, "screening_budget_s": 30.0}
    with Guard(profile, digits_onnx, noise_secret_file=secret, **options) as made:
        yield made


@pytest.fixture(scope="module")
def halfway(digits_data: DigitsData) -> np.ndarray:
    """Images halfway to an attack on them, of which the model is not sure."""
    images, labels = (part[:40] for part in digits_data.test)
    return (images + 0.5 * (attack(trained_network(), images, labels) - images)).astype(np.float32)


def test_benign_and_attacked(guard: Guard, digits_data: DigitsData, halfway: np.ndarray) -> None:
    """Benign digits are flagged at about the rate, attacked ones far more often; each item has its own verdict."""
    benign = guard.screen(digits_data.test[0][:60], client="a")
    attacked = guard.screen(halfway, client="b")
    flagged = [sum(item.verdict is Verdict.ADVERSARIAL for item in found.items) for found in (benign, attacked)]
    assert flagged[0] / 60 <= 0.2
    assert flagged[1] / 40 >= 2 * flagged[0] / 60
    assert flagged[1] >= 10
    assert (len(benign.items), len(attacked.items)) == (60, 40)
    assert (attacked.verdict, attacked.action, attacked.mode) == (Verdict.ADVERSARIAL, Action.REJECT, Mode.ENFORCE)
    assert set(attacked.culprits) == {i for i, item in enumerate(attacked.items) if item.verdict == "adversarial"}


def test_as_the_sidecar_says(profile: Path, digits_onnx: Path, tmp_path: Path, halfway: np.ndarray) -> None:
    """With the same secret the same p-values come out again: a replica answers alike, in float64 too."""
    (tmp_path / "secret").write_bytes(b"s" * 32)
    found = []
    for dtype in (np.float32, np.float64):
        options = {"noise_secret_file": tmp_path / "secret", "screening_budget_s": 30.0, "queries": "skip"}
        with Guard(profile, digits_onnx, **options) as made:
            found.append([item.p_value for item in made.screen(halfway[:8].astype(dtype)).items])
    assert found[0] == found[1]


async def test_asyncio(guard: Guard, digits_data: DigitsData) -> None:
    """Several batches at once from one loop, while it stays free; a cancelled one is given up."""
    images = digits_data.test[0][:12]
    decisions = await asyncio.gather(*(guard.screen_async(image[None]) for image in images))
    assert [len(each.items) for each in decisions] == [1] * 12
    assert len({each.id for each in decisions}) == 12
    task = asyncio.create_task(guard.screen_async(images))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len((await guard.screen_async(images)).items) == 12


def test_threads(guard: Guard, digits_data: DigitsData) -> None:
    """Threads may share one, and it counts what they ask."""
    with ThreadPoolExecutor(4) as pool:
        decisions = list(pool.map(lambda image: guard.screen(image[None]), digits_data.test[0][:16]))
    assert all(len(each.items) == 1 for each in decisions)
    assert (guard.registry.get_sample_value("guard_items_total", {"model": "model", "verdict": "clean"}) or 0) > 0


def test_modes(profile: Path, digits_onnx: Path, halfway: np.ndarray) -> None:
    """In flag mode nothing is rejected, and what the policy wants is told."""
    with Guard(profile, digits_onnx, mode="flag", false_positive_rate=0.05, screening_budget_s=30.0) as made:
        decision = made.screen(halfway)
    assert (decision.verdict, decision.intended, decision.action) == (Verdict.ADVERSARIAL, Action.REJECT, Action.FLAG)


def test_a_replica(profile: Path, digits_data: DigitsData) -> None:
    """A replica that was given answers in place of a file, and stays open."""
    backend = digits_backend()
    with Guard(profile, backend, screening_budget_s=30.0) as made:
        assert made.screen(digits_data.test[0][:2]).verdict in {Verdict.CLEAN, Verdict.ADVERSARIAL}
    assert backend.info.name == "digits"
    backend.close()


def test_what_is_no_batch(guard: Guard, digits_data: DigitsData) -> None:
    """What the model doesn't take is refused, and the message says what it takes."""
    image = digits_data.test[0][:1]
    with pytest.raises(MalformedRequest, match=r"takes FP32 and the batch holds uint8.*values from 0 to 1"):
        guard.screen((image * 255).astype(np.uint8))
    with pytest.raises(MalformedRequest):
        guard.screen(image[0, 0, 0])
    with pytest.raises(NonFiniteInput):
        guard.screen(image * np.nan)


def test_mistakes(profile: Path, digits_onnx: Path, tmp_path: Path) -> None:
    """Mistakes are told when it is made, by the name of the argument, and leave no thread behind."""
    before = threading.active_count()
    with pytest.raises(ConfigError, match="false_positive_rate is `2`, which is out of range"):
        Guard(profile, digits_onnx, false_positive_rate=2.0)
    with pytest.raises(ConfigError, match="false_positive is no setting of a model's policy; leave it out"):
        Guard(profile, digits_onnx, false_positive=0.1)
    (tmp_path / "other.onnx").write_bytes(b"another model")
    with pytest.raises(ProfileMismatch, match="calibrated with another model"):
        Guard(profile, tmp_path / "other.onnx")
    assert threading.active_count() <= before
