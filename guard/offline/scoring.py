"""An engine for work without a deadline: calibration and evaluation screen as a server would."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TypeAlias

import numpy as np

from guard.errors import DataError
from guard.model.backend import Backend
from guard.model.onnx import OnnxBackend
from guard.offline.progress import Reporter
from guard.profile import spec
from guard.profile.profile import BenignScores
from guard.screen.backends import networks_of
from guard.screen.build import build_detectors
from guard.screen.engine import Engine
from guard.screen.trial import MODEL
from guard.values import Evidence, Fault, Float32Array, Screening

Screens: TypeAlias = Callable[[Float32Array], Iterator[Screening]]
"""Screens samples (n, *shape), in their order."""

_QUEUE = 64


@contextmanager
def running_engine(
    replica: Backend, detectors: Sequence[spec.DetectorSpec], files: Mapping[str, bytes], *, secret: bytes
) -> Iterator[Engine]:
    """A running engine over a replica, which stays the caller's, stopped at the end.

    All detectors look at every input; the certificate is left out, for it is no score.
    """
    scoring = [each for each in detectors if not isinstance(each, spec.SmoothingSpec)]
    providers = replica.providers if isinstance(replica, OnnxBackend) else ("CPUExecutionProvider",)
    networks = networks_of(scoring, files, replica.info, providers)
    engine = Engine(
        detectors=build_detectors(scoring),
        backends={MODEL: replica} | networks,
        secret=secret,
        max_queued_items=_QUEUE,
    )
    engine.start()
    try:
        yield engine
    finally:
        engine.stop()
        for each in networks.values():
            each.close()


def screen_all(engine: Engine, samples: Float32Array) -> Iterator[Screening]:
    """Screen samples (n, *shape), in their order."""
    waiting: list[Future[Screening]] = []
    for sample in samples:
        if len(waiting) == _QUEUE:
            yield waiting.pop(0).result()
        waiting.append(engine.submit(sample))
    for future in waiting:
        yield future.result()


def score(
    screens: Screens, samples: Float32Array, detectors: Sequence[spec.DetectorSpec], reporter: Reporter, name: str
) -> BenignScores:
    """Run samples through what screens, as requests would be, and keep each detector's score.

    Raises:
        DataError: one can't be screened; the message calls the samples by `name`.
    """
    names = [detector.name for detector in detectors if not isinstance(detector, spec.SmoothingSpec)]
    scores = {detector: np.full(len(samples), np.nan) for detector in names}
    labels = np.empty(len(samples), dtype=np.int64)
    with reporter.stage(f"scoring samples ({name})", len(samples)) as advance:
        for row, screening in enumerate(screens(samples)):
            fault = next((f for f in screening.findings if isinstance(f, Fault)), None)
            if screening.label is None or fault is not None:
                reason = "the model has no label for it" if fault is None else f"{fault.detector}: {fault.reason}"
                raise DataError(f"sample {row} of the {name} split can't be screened ({reason}): correct or remove it")
            labels[row] = screening.label
            for finding in screening.findings:
                if isinstance(finding, Evidence):
                    scores[finding.detector][row] = finding.score
            advance(1)
    return BenignScores(labels, scores)
