"""`guard calibrate`: from a model and clean samples to a profile.

The samples are split three ways, once, by a seeded shuffle: `fit` chooses parameters and trains detector networks;
`reference` says what scores are ordinary; `calibration` turns the combined score into a p-value. No sample serves
two purposes, which is what the false-positive rate rests on. Half of the last two are under the conditions that the
deployment expects, so the rate is that of inputs of which half are.
"""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import structlog
import torch

import guard
from guard import stats
from guard.datatypes import held
from guard.environment import check_onnxruntime
from guard.errors import DataError
from guard.layout import of_model
from guard.model.backend import Backend
from guard.model.sweep import best_batch
from guard.offline import networks
from guard.offline.conditions import EXPECTED, drawn, possible
from guard.offline.joint import ALONE, caught_alone, learn, score_sets
from guard.offline.known import most_striking
from guard.offline.material import Attacker, Material
from guard.offline.occlusion import choose_occlusion
from guard.offline.options import Options
from guard.offline.progress import Reporter, quiet
from guard.offline.quantise import fastest_variant
from guard.offline.scoring import score
from guard.offline.spread import screening
from guard.offline.telling import TOLD, Telling, most_telling
from guard.offline.tune import choose_hypotheses, choose_squeezers, label_change_rates, stable_sigmas
from guard.offline.view import View, hashes
from guard.plural import counted
from guard.profile import spec
from guard.profile.profile import Canaries, Profile, Provenance
from guard.queries.calibrate import radii_of
from guard.screen.smoothing import at_radius
from guard.values import Float32Array, IntArray, ModelInfo, OutputKind

LEAST_SAMPLES = 150
_FIT_SHARE, _REFERENCE_SHARE = 0.4, 0.2
_CANARIES = 8
_RATE_COPIES = 32
_ATTACKED, _ATTACKED_FOR_WEIGHTS, _ATTACKED_BY_SURROGATE = 300, 60, 8
_SUM_TOLERANCE = 1e-3
_CHANGED_SHARE = 0.5
_log = structlog.get_logger(__name__)


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
            f"{counted(len(samples), 'clean sample is', 'clean samples are')} too few: calibration splits them three "
            f"ways and needs {LEAST_SAMPLES}; "
            f"{round(stats.samples_needed(0.01) / _calibration_share())} for a false-positive rate of 1 %"
        )
    samples = held(backend.info.datatype, samples)
    order = np.random.default_rng(options.seed).permutation(len(samples))
    first, second = round(len(samples) * _FIT_SHARE), round(len(samples) * (_FIT_SHARE + _REFERENCE_SHARE))
    fit, reference, held_out = (samples[part] for part in (order[:first], order[first:second], order[second:]))
    backend.info = replace(with_output_kind(backend.info, backend, fit[:_CANARIES]), layout=of_model(backend.info))
    original = backend
    variant = fastest_variant(backend, fit, options.precision)
    if variant is not None:
        backend = variant.backend
    conditions = _conditions(original.info, options)
    attacker = _attacker(original, fit, conditions, options, reporter)
    material = None if attacker is None else attacker.material(fit, seed=options.seed, attacked=_ATTACKED)
    rng = np.random.default_rng(options.seed + 1)
    with reporter.stage("measuring what noise benign inputs bear", 1) as advance:
        sigmas = stable_sigmas(backend, fit, rng)
        advance(1)
    trained = _train(original, material, sigmas[-1], options, reporter)
    specs = [each.spec for each in trained]
    detectors, measured = _choose_detectors(backend, fit, material, sigmas, options, specs, rng, reporter)
    files = {each.spec.file: each.content for each in trained}
    sweep = best_batch(backend)
    backend.preferred_batch = sweep.batch
    measured |= {"batch": float(sweep.batch), "evaluation_s": sweep.evaluation_s}
    # No secret: its noise is only ever seen here, and repeats with the seed.
    secret = f"calibration {options.seed}".encode()
    with screening(backend, detectors, files, secret=secret, ray=options.ray) as screens:
        rng = np.random.default_rng(options.seed)
        benign = []
        for part, name in ((reference, "reference"), (held_out, "calibration")):
            changed, groups = _changed(part, backend.info, conditions, rng)
            benign.append(replace(score(screens, changed, detectors, reporter, name), groups=groups))
        made, others = {}, {}
        if attacker is not None:
            attacked = _ATTACKED_FOR_WEIGHTS if attacker.exact else _ATTACKED_BY_SURROGATE
            crafted = attacker.attacks(reference, seed=options.seed + 2, attacked=attacked)
            made = {family: [each.x for each in sets] for family, sets in crafted.items()}
            others = score_sets(screens, made, detectors, reporter)
    canaries = held_out[:_CANARIES]
    profile = Profile(
        model=backend.info,
        detectors=detectors,
        reference=benign[0],
        calibration=benign[1],
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
        conditions=conditions,
        sample_hashes=hashes(View(backend.info).view(samples)),
        query_radii=radii_of(samples, backend.info.bounds, backend.info.layout),
    )
    if attacker is not None and attacker.exact:  # a surrogate's attacks say too little about the model's own
        caught = caught_alone(profile, others)
        _warn_of_the_blind(detectors, caught)
        made_of = replace(profile.provenance, caught_alone=caught)
        profile = replace(profile, joint=learn(profile, others), provenance=made_of)
    return replace(profile, known_attacks=most_striking(profile, made, others) if made else None)


def _warn_of_the_blind(detectors: Sequence[spec.DetectorSpec], caught: Mapping[str, float]) -> None:
    """A network that flags attacks hardly more often than benign inputs has learnt nothing; else nothing shows it."""
    for each in detectors:
        if isinstance(each, spec.NetworkSpec) and caught.get(each.name, 1.0) < 2 * ALONE:
            _log.warning(
                "a detector network has learnt nothing: it hardly tells the attacks of calibration from benign inputs. "
                "Other detectors stay; more or more varied samples may help",
                detector=each.name,
                caught=f"{caught[each.name]:.1%}",
                benign=f"{ALONE:.0%}",
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


def _conditions(info: ModelInfo, options: Options) -> tuple[spec.Condition, ...]:
    image = View(info).image
    if options.conditions is None:
        return EXPECTED if image else ()
    return possible(options.conditions, image=image)


def _changed(
    samples: Float32Array, info: ModelInfo, conditions: Sequence[spec.Condition], rng: np.random.Generator
) -> tuple[Float32Array, IntArray]:
    """Half of the samples under one of the conditions each, at 8 bits, the others as they are; and their groups."""
    share = _CHANGED_SHARE if conditions else 0
    chosen = rng.permutation(len(samples)) < round(share * len(samples))
    view, changed, groups = View(info), samples.copy(), np.zeros(len(samples), np.int64)
    made = drawn(conditions, view.view(samples[chosen]), rng)
    changed[chosen], groups[chosen] = view.own(made.images), 1 + made.chosen
    return changed, groups


def _attacker(
    backend: Backend, fit: Float32Array, conditions: Sequence[spec.Condition], options: Options, reporter: Reporter
) -> Attacker | None:
    if not options.network:
        return None
    box = networks.white_box(backend, fit, conditions, seed=options.seed, budget=options.budget, reporter=reporter)
    return Attacker(box.module, backend, conditions, box.exact, reporter, options.left_out)


def _train(
    backend: Backend, material: Material | None, sigma: float, options: Options, reporter: Reporter
) -> tuple[networks.Network, ...]:
    if material is None:
        return ()
    noise = sigma / (backend.info.bounds[1] - backend.info.bounds[0])
    return networks.train(backend, material, noise, seed=options.seed, budget=options.budget, reporter=reporter)


def _choose_detectors(  # noqa: PLR0917 - what is known, and what was asked for
    backend: Backend,
    fit: Float32Array,
    material: Material | None,
    sigmas: Sequence[float],
    options: Options,
    trained: Sequence[spec.NetworkSpec],
    rng: np.random.Generator,
    reporter: Reporter,
) -> tuple[tuple[spec.DetectorSpec, ...], dict[str, float]]:
    chosen: list[spec.DetectorSpec] = [spec.ConfidenceSpec(), *trained]
    measured: dict[str, float] = {}
    strongest = sigmas[-1]  # which proves the largest radius
    mutations = 1 + len(options.mutations)
    with reporter.stage("measuring benign sensitivity", mutations + 3) as advance:
        chosen.append(spec.SqueezingSpec(squeezers=choose_squeezers(backend, fit)))
        advance(1)
        attacks = material.positives if material is not None and material.exact and not options.shared_noise else []
        if attacks:
            telling = most_telling(backend, fit, attacks, sigmas, rng)
        else:
            telling = Telling(spec.Gaussian(sigma=strongest), strongest, {})
        measured |= {f"{TOLD}{kind}": share for kind, share in telling.told.items()}
        advance(1)
        for mutation in telling.with_kinds(options.mutations):
            rates = label_change_rates(backend, fit, mutation, _RATE_COPIES, rng)
            p0, p1 = choose_hypotheses(rates)
            chosen.append(spec.SensitivitySpec(mutation=mutation, p0=p0, p1=p1))
            measured[f"mean_label_change_rate_{mutation.kind}"] = float(rates.mean())
            advance(1)
        masks = choose_occlusion(backend, fit, pairs="skip") if options.occlusion else None
        chosen += [] if masks is None else [masks]
        advance(1)
    smoothing = spec.SmoothingSpec(sigma=strongest, radius=strongest)
    chosen.append(at_radius(smoothing, options.radius_sigmas * strongest))
    return tuple(chosen), measured


def _calibration_share() -> float:
    return 1 - _FIT_SHARE - _REFERENCE_SHARE


def _versions() -> dict[str, str]:
    packages = ("torch", "numpy", "onnx", check_onnxruntime(), "opencv-python-headless")
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in packages}
