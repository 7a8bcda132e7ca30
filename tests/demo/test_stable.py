"""Counting label changes inside: the same copies as those on which the sidecar judged."""

from __future__ import annotations

import io
import stat
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from guard.app import Sidecar
from guard.config import Certify
from guard.demo.report import STABLE_BUDGET
from guard.demo.stable import Noisy, noise_secret, screen_again
from guard.demo.traffic import MODEL, Client, Kind, send_all
from guard.offline.progress import Reporter
from guard.profile import store
from tests.app.parts import policy
from tests.support import digits
from tests.support.loop import LoopThread
from tests.support.profiles import plain_profile
from tests.support.sidecars import embedded, running, settings, wait_until

GAUSSIAN = ("sensitivity_gaussian", "smoothing")


def written(folder: Path, letter: bytes) -> Path:
    """A secret in a file."""
    (folder / "noise").write_bytes(32 * letter)
    return folder / "noise"


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A profile of the digits model."""
    folder = tmp_path_factory.mktemp("profile")
    store.save(plain_profile(), folder)
    return folder


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Digits of which some are unstable: those on the way to another's class."""
    clean = digits.load_data().test[0][:30]
    return np.concatenate([clean, (clean[:10] + clean[10:20]) / 2])


@pytest.fixture(scope="module")
def secret(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sidecar's secret."""
    return written(tmp_path_factory.mktemp("secret"), b"s")


@pytest.fixture(scope="module")
def judged(profile: Path, images: np.ndarray, secret: Path) -> Kind:
    """What became of the images at a sidecar with this secret."""
    kind = Kind("digits", attack=False)
    with ExitStack() as stack:
        loop = stack.enter_context(LoopThread())
        upstream = stack.enter_context(embedded(loop, {MODEL: digits.onnx_file()}))
        configured = settings(upstream, {MODEL: policy(profile, certificate=Certify.REPORT)}, noise_secret_file=secret)
        sidecar = stack.enter_context(running(loop, Sidecar(configured)))
        wait_until(sidecar)
        direct = stack.enter_context(closing(Client(int(upstream.rpartition(":")[2]))))
        guarded = stack.enter_context(closing(Client(sidecar.grpc_port)))
        reporter = Reporter(Console(file=io.StringIO()))
        send_all(kind, images, direct=direct, guarded=guarded, sidecar=sidecar, reporter=reporter)
    return kind


def again(profile: Path, images: np.ndarray, secret: Path) -> list[Noisy]:
    """The images' noisy copies under a secret."""
    return screen_again(images, profile_folder=profile, model_file=digits.onnx_file(), secret_file=secret)


def test_the_same_copies(judged: Kind, profile: Path, images: np.ndarray, secret: Path, tmp_path: Path) -> None:
    """With the sidecar's secret an image has the copies that the sidecar paid for; with another, some have not.

    Images of which the sidecar was certain before may have had fewer there.
    """
    paid = judged.evaluations_for(*GAUSSIAN)
    same, others = (
        np.array([noisy.copies for noisy in again(profile, images, each)]) for each in (secret, written(tmp_path, b"o"))
    )
    assert (paid <= same).all()
    assert len(set(paid[paid == same])) > 2  # or agreement would mean little
    assert (paid == same).sum() >= judged.outcomes["forwarded"]
    assert (paid > others).any()


def test_stable_images(judged: Kind, profile: Path, images: np.ndarray, secret: Path) -> None:
    """Images of which no copy changed the label all cost the same, and no more than promised; some others cost more.

    Both tests then see nothing but agreement, and stop at the first look at which that is enough.
    """
    kind = replace(judged, noisy=again(profile, images, secret))
    stable = [noisy for noisy in kind.noisy if noisy.stable]
    unstable = [noisy for noisy in kind.noisy if not noisy.stable]
    (copies,) = {noisy.copies for noisy in stable}
    paid = kind.evaluations_if_stable(*GAUSSIAN)
    assert 20 <= len(paid) == len(stable) < len(images)
    assert paid.max() == copies <= STABLE_BUDGET
    assert all(0 < noisy.changes <= noisy.copies for noisy in unstable)
    assert max(noisy.copies for noisy in unstable) > copies
    assert max(noisy.changes for noisy in unstable) > 10  # a blend of two digits that noise takes for either


def test_secret() -> None:
    """The demo's secret is drawn anew each time, readable by its user alone, and gone at the end."""
    with noise_secret() as first, noise_secret() as second:
        assert first.read_bytes() != second.read_bytes()
        assert len(first.read_bytes()) == 32
        assert stat.S_IMODE(first.parent.stat().st_mode) == 0o700
    assert not first.parent.exists()
