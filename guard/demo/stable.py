"""Which images are stable under noise. Guard tells no client what it found, so they are screened once more, inside."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from guard.model.backend import Backend
from guard.model.onnx import OnnxBackend
from guard.profile import store
from guard.profile.spec import DetectorSpec, Gaussian, SensitivitySpec, SmoothingSpec
from guard.screen.build import build_detectors
from guard.screen.engine import Engine
from guard.screen.trial import MODEL
from guard.values import Float32Array

_SECRET_BYTES = 32


@dataclass(frozen=True, slots=True)
class Noisy:
    """How many noisy copies of an image screening asked for, and how many of them had another label than it."""

    copies: int
    changes: int

    @property
    def stable(self) -> bool:
        """Whether no copy changed the label."""
        return not self.changes


@contextmanager
def noise_secret() -> Iterator[Path]:
    """A file with a fresh noise secret, for this user's eyes only, gone at the end."""
    with tempfile.TemporaryDirectory(prefix="guard-demo-") as folder:
        file = Path(folder) / "noise-secret"
        file.write_bytes(secrets.token_bytes(_SECRET_BYTES))
        yield file


def screen_again(images: Float32Array, *, profile_folder: Path, model_file: Path, secret_file: Path) -> list[Noisy]:
    """Screen images with the detectors that ask for Gaussian copies, and count the labels.

    The noise follows from the secret, the model and the image, so these are the very copies that a sidecar with that
    secret, model and profile classified, or would have, had it not been certain of its verdict without them.
    """
    profile = store.load(profile_folder)
    with closing(_Watched(OnnxBackend(model_file.read_bytes(), profile.model))) as replica:
        detectors = build_detectors(spec for spec in profile.detectors if _asks_for_noise(spec))
        engine = Engine(detectors=detectors, backends={MODEL: replica}, secret=secret_file.read_bytes())
        engine.start()
        try:
            return [_count(engine, replica, image) for image in images]
        finally:
            engine.stop()


def _asks_for_noise(spec: DetectorSpec) -> bool:
    return isinstance(spec, SmoothingSpec) or (
        isinstance(spec, SensitivitySpec) and isinstance(spec.mutation, Gaussian)
    )


def _count(engine: Engine, replica: _Watched, image: Float32Array) -> Noisy:
    replica.labels.clear()
    own = engine.submit(image).result().label
    evaluations = len(replica.labels)  # of the image itself and of its noisy copies, and of nothing else
    return Noisy(copies=evaluations - 1, changes=evaluations - replica.labels.count(own))


class _Watched:
    """A replica that keeps the labels it gave."""

    def __init__(self, backend: Backend) -> None:
        self.info = backend.info
        self.preferred_batch = backend.preferred_batch
        self.labels: list[int | None] = []
        self._backend = backend

    def logits(self, x: Tensor) -> Tensor:
        """Classify a batch and keep its labels."""
        logits = self._backend.logits(x)
        self.labels.extend(logits.argmax(dim=1).tolist())
        return logits

    def close(self) -> None:
        """Close the replica."""
        self._backend.close()
