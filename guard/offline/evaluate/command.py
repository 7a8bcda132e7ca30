"""What `guard evaluate` does: open the model and its profile, attack, measure, report."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache

import numpy as np
from rich.console import Console
from torch import nn

import guard
from guard.environment import check_onnxruntime
from guard.errors import DataError
from guard.model.onnx import OnnxBackend
from guard.offline.evaluate.attack import Attack
from guard.offline.evaluate.craft import Crafter, Victim
from guard.offline.evaluate.kept import Kept
from guard.offline.evaluate.knowing import Knower
from guard.offline.evaluate.measure import craft_all, drift, measure, worst_cases
from guard.offline.evaluate.pursuits import most, pursuits
from guard.offline.evaluate.report import write
from guard.offline.evaluate.request import Request, guarded
from guard.offline.evaluate.results import Count, Evaluation, Knowing
from guard.offline.evaluate.samples import Samples, read
from guard.offline.evaluate.screening import Screen, screen, supported
from guard.offline.evaluate.show import print_evaluation
from guard.offline.evaluate.suite import choose, knowing_named
from guard.offline.evaluate.target import Answers
from guard.offline.evaluate.twin import Twin
from guard.offline.nets import one_thread
from guard.offline.progress import Reporter, quiet
from guard.offline.view import Bytes, View
from guard.offline.whitebox import WhiteBox, best_white_box, imitate
from guard.output import make_folder, writing
from guard.profile.profile import Profile
from guard.values import IntArray

RATES = (0.05, 0.01)
REPORT, RESULTS, KEPT = "report.html", "evaluation.json", "kept"
_MOST_BENIGN = 5000
_IMITATED = 1000
_PACKAGES = ("adversarial-robustness-toolbox", "torch", "numpy", "onnx", "opencv-python-headless")


def evaluate_to(request: Request, console: Console) -> Evaluation:
    """Evaluate a profile and write the report to `out`.

    Raises:
        GuardError: the model, the profile, the samples or the options can't be used.
    """
    started = time.monotonic()
    profile, content = guarded(request)
    rates = supported(profile, request.rates, RATES)
    attacks = choose(request.attacks, quick=request.quick, image=View(profile.model).image)
    samples = read(request.data, request.labels, profile, most=_MOST_BENIGN, seed=request.seed)
    make_folder(request.out, "--out")
    reporter = Reporter(console)
    kept = Kept(request.kept or request.out / KEPT)
    backend = OnnxBackend(content, profile.model)
    replica = backend if profile.replica is None else OnnxBackend(profile.bytes_of(profile.replica), profile.model)
    try:
        with one_thread(), screen(profile, replica, rates, kept, request.seed, ray=request.ray) as screening:
            evaluation = _evaluate(
                request,
                profile=profile,
                samples=samples,
                backend=backend,
                attacks=attacks,
                screening=screening,
                kept=kept,
                reporter=reporter,
            )
    finally:
        backend.close()
        if replica is not backend:
            replica.close()
    text = json.dumps(evaluation.as_json(), indent=2, allow_nan=False)
    with writing(request.out):
        (request.out / RESULTS).write_text(text + "\n", encoding="utf-8")
        write(evaluation, request.out / REPORT)
    print_evaluation(console, evaluation)
    console.print(
        f"Done in {time.monotonic() - started:.0f} s. The report is {request.out / REPORT}; "
        f"the same for machines: {request.out / RESULTS}",
        soft_wrap=True,
    )
    return evaluation


def _evaluate(
    request: Request,
    *,
    profile: Profile,
    samples: Samples,
    backend: OnnxBackend,
    attacks: Sequence[Attack],
    screening: Screen,
    kept: Kept,
    reporter: Reporter,
) -> Evaluation:
    seed, answers = request.seed, Answers(backend)
    own = answers.labels(samples.images)
    labels = own if samples.labels is None else samples.labels
    right = own == labels
    victim, box = _victim(answers, backend, samples, seed, reporter)
    with reporter.stage("screening honest images", len(own)) as advance:
        benign = screening(samples.images, advance)
    honest = samples.images[right], labels[right]
    images, truth = honest[0][: request.attacked], honest[1][: request.attacked]
    if not len(images):
        raise DataError(f"{request.data}: the model gets none of the samples right, so there is nothing to attack")
    made = craft_all(Crafter(victim, seed, kept), attacks, images, truth, reporter)
    measured = [
        measure(each, images, truth, screen=screening, answers=answers, seed=seed, reporter=reporter) for each in made
    ]
    knowing = _by_knower(request, profile, victim, screening, kept=kept, reporter=reporter, honest=honest)
    some, some_labels = samples.images[: request.drifting], labels[: request.drifting]
    return Evaluation(
        facts=_facts(request, profile, samples, len(images), box),
        labelled=samples.labels is not None,
        exact=box.exact,
        agreement=box.agreement,
        accuracy=Count(int(np.count_nonzero(right)), len(right)),
        rates=screening.rates,
        benign=screening.count(benign),
        benign_evaluations=float(benign.evaluations.mean()),
        unscreened=int(np.count_nonzero(benign.judged == 0)),
        detectors=screening.detectors,
        attacks=tuple(each.row for each in measured),
        drift=drift(some, some_labels, screen=screening, seed=seed, reporter=reporter),
        worst=worst_cases(measured, len(images), screening.rates) if measured else (),
        examples=tuple(each.example for each in measured if each.example is not None),
        knowing=knowing,
    )


def _by_knower(
    request: Request,
    profile: Profile,
    victim: Victim,
    screening: Screen,
    *,
    kept: Kept,
    reporter: Reporter,
    honest: tuple[Bytes, IntArray],
) -> Knowing | None:
    if not knowing_named(request.attacks):
        return None
    count = most(request.images, quick=request.quick)
    twin = Twin(profile, victim.module)
    rows = pursuits(View(profile.model), twin.detectors, quick=request.quick)
    knower = Knower(twin, victim, screening, kept, request.seed, reporter)
    return knower.attack(rows, honest[0][:count], honest[1][:count], honest=honest)


def _victim(
    answers: Answers, backend: OnnxBackend, samples: Samples, seed: int, reporter: Reporter
) -> tuple[Victim, WhiteBox]:
    own = answers.view.own(samples.images[:_IMITATED])
    box = best_white_box(backend, own, seed=seed, reporter=reporter)

    @cache
    def another() -> nn.Module:
        return imitate(backend, own, seed=seed + 1, reporter=quiet())  # it is within a stage of another attack

    return Victim(answers, box.module, box.exact, backend.info.fingerprint, another), box


def _facts(request: Request, profile: Profile, samples: Samples, attacked: int, box: WhiteBox) -> Mapping[str, str]:
    made = profile.provenance
    truth = "its true one" if samples.labels is not None else "it gave before, no true ones being given"
    module = (
        "the model itself, as a torch module that gives the same answers"
        if box.exact
        else f"a surrogate, distilled from the model's answers, that gives {box.agreement:.1%} of the samples its label"
    )
    return {
        "command": request.command,
        "evaluated": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": f"{profile.model.name}, SHA-256 {profile.model.fingerprint}",
        "replica": "the model itself" if profile.replica is None else f"{profile.replica.file} of the profile",
        "profile": f"made {made.created} by guard {made.guard_version}, seed {made.seed}, "
        f"of {sum(made.samples.values())} samples",
        "samples": f"{len(samples.images)} honest images; {attacked} that the model gets right were attacked",
        "success": f"an 8-bit image that the model gives another label than {truth}",
        "gradients": module,
        "seed": f"{request.seed}",
        "versions": ", ".join(f"{name} {version}" for name, version in _versions().items()),
    }


def _versions() -> dict[str, str]:
    names = (*_PACKAGES, check_onnxruntime())
    versions = {"guard": guard.__version__, "python": platform.python_version()}
    return versions | {name: importlib.metadata.version(name) for name in names}
