"""`guard calibrate`: from a model and clean samples to a profile.

The samples are split three ways, once, by a seeded shuffle: `fit` chooses parameters and trains the detector network;
`reference` says what scores are ordinary; `calibration` turns the combined score into a p-value. No sample serves
two purposes, which is what the false-positive rate rests on.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import numpy as np
import torch

import guard
from guard import stats
from guard.environment import check_onnxruntime
from guard.errors import DataError
from guard.model.backend import Backend
from guard.model.onnx import OnnxBackend, network_backend
from guard.model.sweep import best_batch
from guard.offline.network import train_network, train_surrogate
from guard.offline.progress import Reporter, quiet
from guard.offline.quantise import Precision, fastest_variant
from guard.offline.tune import choose_hypotheses, choose_sigma, choose_squeezers, label_change_rates
from guard.profile import spec
from guard.profile.profile import BenignScores, Canaries, Profile, Provenance
from guard.queries.calibrate import radii_of
from guard.screen.build import build_detectors
from guard.screen.engine import Engine
from guard.screen.smoothing import at_radius
from guard.screen.trial import MODEL, NETWORK
from guard.values import Evidence, Fault, Float32Array, ModelInfo, OutputKind, Screening

LEAST_SAMPLES = 150
_FIT_SHARE, _REFERENCE_SHARE = 0.4, 0.2
_CANARIES = 8
_RATE_COPIES = 32
_QUEUE = 64
_SUM_TOLERANCE = 1e-3
_NETWORK_FILE = "network.onnx"


@dataclass(frozen=True, slots=True)
class Budget:
    """Training steps, of batches of 128."""

    surrogate_steps: int = 600
    network_steps: int = 2000


@dataclass(frozen=True, slots=True)
class Options:
    """What a person may choose; the rest is measured.

    `radius_sigmas` is the L2 radius to certify, in deviations of the noise. `mutations` names the kinds of sensitivity
    beside the Gaussian one: uniform, shift_rotate, contrast_brightness. `network` trains a detector network.
    `precision` is that of the replica: fp32 for the model itself; int8 or fp16, each taken only if it is faster and
    agrees; or auto, for the fastest of the three.
    """

    seed: int = 0
    radius_sigmas: float = 0.5
    mutations: tuple[str, ...] = ()
    network: bool = True
    precision: Precision = "fp32"
    budget: Budget = field(default_factory=Budget)


def calibrate(
    backend: Backend, samples: Float32Array, options: Options | None = None, reporter: Reporter | None = None
) -> Profile:
    """Calibrate detectors for a model on clean samples, (n, *shape) in the model's own units.

    Raises:
        DataError: too few samples.
        BackendError: the model fails.
    """
    options, reporter = options or Options(), reporter or quiet()
    if len(samples) < LEAST_SAMPLES:
        raise DataError(
            f"{len(samples)} clean samples are too few: calibration splits them three ways and needs {LEAST_SAMPLES}; "
            f"{round(stats.samples_needed(0.01) / _calibration_share())} for a false-positive rate of 1 %"
        )
    order = np.random.default_rng(options.seed).permutation(len(samples))
    first, second = round(len(samples) * _FIT_SHARE), round(len(samples) * (_FIT_SHARE + _REFERENCE_SHARE))
    fit, reference, held_out = (samples[part] for part in (order[:first], order[first:second], order[second:]))
    backend.info = with_output_kind(backend.info, backend, fit[:_CANARIES])
    original = backend
    variant = fastest_variant(backend, fit, options.precision)
    if variant is not None:
        backend = variant.backend
    files = {_NETWORK_FILE: _train(backend, fit, options, reporter)} if options.network else {}
    detectors, measured = _choose_detectors(backend, fit, options, files, reporter)
    sweep = best_batch(backend)
    backend.preferred_batch = sweep.batch
    measured |= {"batch": float(sweep.batch), "evaluation_s": sweep.evaluation_s}
    with _engine(backend, detectors, files, options.seed) as engine:
        ordinary = _score(engine, reference, detectors, reporter, "reference")
        calibration = _score(engine, held_out, detectors, reporter, "calibration")
    canaries = held_out[:_CANARIES]
    return Profile(
        model=backend.info,
        detectors=detectors,
        reference=ordinary,
        calibration=calibration,
        canaries=Canaries(canaries, original.logits(torch.from_numpy(canaries)).numpy()),
        provenance=Provenance(
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            guard_version=guard.__version__,
            seed=options.seed,
            samples={"fit": len(fit), "reference": len(reference), "calibration": len(held_out)},
            versions=_versions(),
            measured=measured,
        ),
        files=files | ({} if variant is None else {variant.spec.file: variant.content}),
        replica=None if variant is None else variant.spec,
        query_radii=radii_of(samples, backend.info.bounds),
    )


def with_output_kind(info: ModelInfo, backend: Backend, samples: Float32Array) -> ModelInfo:
    """Tell probabilities from logits by what the model answers: rows in [0, 1] that sum to one are probabilities.

    Raises:
        DataError: the model answers NaN or infinity.
    """
    if info.output_kind is OutputKind.PROBABILITIES:  # known from an earlier calibration
        return info
    answers = backend.logits(torch.from_numpy(samples))
    if not bool(torch.isfinite(answers).all()):
        raise DataError(
            f"model {info.name!r} answers NaN or infinity for clean samples: check that they are scaled and laid out "
            "as it was trained on"
        )
    sums = answers.sum(dim=1)
    looks = bool((answers >= 0).all() and (answers <= 1).all() and ((sums - 1).abs() < _SUM_TOLERANCE).all())
    kind = OutputKind.PROBABILITIES if looks else OutputKind.LOGITS
    return replace(info, output_kind=kind)


def _train(backend: Backend, fit: Float32Array, options: Options, reporter: Reporter) -> bytes:
    seed, budget = options.seed, options.budget
    surrogate = train_surrogate(backend, fit, seed=seed, reporter=reporter, steps=budget.surrogate_steps)
    return train_network(surrogate, backend.info, fit, seed=seed, reporter=reporter, steps=budget.network_steps)


def _choose_detectors(
    backend: Backend, fit: Float32Array, options: Options, files: Mapping[str, bytes], reporter: Reporter
) -> tuple[tuple[spec.DetectorSpec, ...], dict[str, float]]:
    rng = np.random.default_rng(options.seed + 1)
    chosen: list[spec.DetectorSpec] = [spec.ConfidenceSpec()]
    measured: dict[str, float] = {}
    if files:
        chosen.append(spec.NetworkSpec(file=_NETWORK_FILE, sha256=hashlib.sha256(files[_NETWORK_FILE]).hexdigest()))
    mutations = 1 + len(options.mutations)
    with reporter.stage("measuring benign sensitivity", mutations + 2) as advance:
        chosen.append(spec.SqueezingSpec(squeezers=choose_squeezers(backend, fit)))
        advance(1)
        sigma = choose_sigma(backend, fit, rng)
        advance(1)
        for mutation in (spec.Gaussian(sigma=sigma), *(_mutation(kind, sigma) for kind in options.mutations)):
            rates = label_change_rates(backend, fit, mutation, _RATE_COPIES, rng)
            p0, p1 = choose_hypotheses(rates)
            chosen.append(spec.SensitivitySpec(mutation=mutation, p0=p0, p1=p1))
            measured[f"mean_label_change_rate_{mutation.kind}"] = float(rates.mean())
            advance(1)
    smoothing = spec.SmoothingSpec(sigma=sigma, radius=sigma)
    chosen.append(at_radius(smoothing, options.radius_sigmas * sigma))
    return tuple(chosen), measured


def _mutation(kind: str, sigma: float) -> spec.Uniform | spec.ShiftRotate | spec.ContrastBrightness:
    match kind:
        case "uniform":
            return spec.Uniform(width=sigma * 3**0.5)  # the width whose deviation is sigma
        case "shift_rotate":
            return spec.ShiftRotate()
        case "contrast_brightness":
            return spec.ContrastBrightness()
        case _:
            raise DataError(f"no mutation is called {kind!r}: choose uniform, shift_rotate or contrast_brightness")


@contextmanager
def _engine(
    backend: Backend, detectors: tuple[spec.DetectorSpec, ...], files: Mapping[str, bytes], seed: int
) -> Iterator[Engine]:
    backends = {MODEL: backend}
    if files:
        providers = backend.providers if isinstance(backend, OnnxBackend) else ("CPUExecutionProvider",)
        backends[NETWORK] = network_backend(files[_NETWORK_FILE], backend.info, providers=providers)
    engine = Engine(
        # A certificate is no score, and nothing of it is kept.
        detectors=build_detectors(each for each in detectors if not isinstance(each, spec.SmoothingSpec)),
        backends=backends,
        secret=f"calibration {seed}".encode(),  # no secret: its noise is only ever seen here, and repeats with the seed
        max_queued_items=_QUEUE,
    )
    engine.start()
    try:
        yield engine
    finally:
        engine.stop()


def _score(
    engine: Engine, samples: Float32Array, detectors: tuple[spec.DetectorSpec, ...], reporter: Reporter, name: str
) -> BenignScores:
    """Run samples through the engine, as requests would be, and keep each detector's score."""
    names = [detector.name for detector in detectors if not isinstance(detector, spec.SmoothingSpec)]
    scores = {detector: np.full(len(samples), np.nan) for detector in names}
    labels = np.empty(len(samples), dtype=np.int64)
    with reporter.stage(f"scoring benign samples ({name})", len(samples)) as advance:
        for row, screening in enumerate(_screen_all(engine, samples)):
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


def _screen_all(engine: Engine, samples: Float32Array) -> Iterator[Screening]:
    waiting: list[Future[Screening]] = []
    for sample in samples:
        if len(waiting) == _QUEUE:
            yield waiting.pop(0).result()
        waiting.append(engine.submit(sample))
    for future in waiting:
        yield future.result()


def _calibration_share() -> float:
    return 1 - _FIT_SHARE - _REFERENCE_SHARE


def _versions() -> dict[str, str]:
    packages = ("torch", "numpy", "onnx", check_onnxruntime(), "opencv-python-headless")
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in packages}
