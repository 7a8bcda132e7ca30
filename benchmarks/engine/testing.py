"""Rows 1, 2, 3 and 8: what an engine adds to its evaluations, mutation testing, and one stream against two."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from benchmarks.engine.bench import GAUSSIAN, SENSITIVITY, Bench
from benchmarks.engine.clock import seconds
from benchmarks.engine.error_rates import Judged, Rule
from benchmarks.engine.subject import SIGMA, engine, evaluations, screen
from benchmarks.engine.table import Row
from benchmarks.references import mutation_testing
from guard.profile import spec
from guard.screen.engine import Engine
from guard.values import Evidence, Float32Array, Screening

_CAP = 500
_ATTACKED = 0.2
_STREAMED = 64
_USUAL = 25
"""Evaluations that a request takes, about: how long the denominator of row 1 runs."""


def rho(bench: Bench) -> Iterator[Row]:
    """Row 1: time per screened request over evaluations spent times the time of one at the best batch."""
    subject = bench.subject
    target = 1.15 if subject.name == "LeNet-5" else 1.02
    for name, radius in (("half sigma", 0.5), ("sigma", 1.0)):
        specs = (SENSITIVITY, spec.SmoothingSpec(sigma=SIGMA, radius=radius * SIGMA, cap=256))
        spent: list[float] = []
        with engine(subject, specs) as running:

            def cost(running: Engine = running, spent: list[float] = spent) -> float:
                done, elapsed = _screened(running, bench.images(bench.size.engine_images))
                spent.append(evaluations(done) / len(done))
                return elapsed / evaluations(done)

            one = partial(bench.evaluation_s, bench.size.engine_images * _USUAL)
            found = bench.ratio(cost, one, beside=one)
        detail = (
            f"sensitivity and a certificate of {name}; {np.mean(spent):.1f} evaluations a request in batches of "
            f"{subject.batch}; one in the best batch, of {subject.best}: {found.beside * 1e6:.1f} us"
        )
        yield bench.row(1, f"rho, certificate of {name}", target, found, detail)


def sprt(bench: Bench) -> Iterator[Row]:
    """Rows 2 and 3: the published rule and Wald's, one copy at a time, against the engine with Wald's."""
    theta, judged = _theta(bench), Judged(bench)
    lenet = bench.subject.name == "LeNet-5"
    targets = {0.5: (140, 17) if lenet else (None, None), 0.1: (30, 20) if lenet else (65, 3.5)}
    rules = (mutation_testing.as_published, mutation_testing.wald_every_copy)
    for number, indifference in ((2, 0.5), (3, 0.1)):
        test = mutation_testing.Sprt(theta, indifference)
        for rule, target in zip(rules, targets[indifference], strict=True):
            if target is not None:
                row = _sprt(bench, number, test, rule, target)
                yield replace(row, detail=f"{row.detail}; {judged.compare(rule, test, sprt_design(test))}")


def sprt_design(test: mutation_testing.Sprt) -> spec.SensitivitySpec:
    """Guard's detector of the same rates and errors."""
    return spec.SensitivitySpec(mutation=GAUSSIAN, p0=test.p0, p1=test.p1, alpha=test.alpha, beta=test.beta, cap=_CAP)


def _sprt(bench: Bench, number: int, test: mutation_testing.Sprt, rule: Rule, target: float) -> Row:
    spent: dict[str, list[int]] = {"reference": [], "Guard": []}
    images: list[Float32Array] = []
    module, count = bench.subject.module, max(5, bench.size.slow_images)

    def reference() -> float:
        images[:] = bench.images(count, attacked_share=_ATTACKED)
        generator = bench.generator()

        def work() -> None:
            for image in images:
                x = torch.from_numpy(image)
                with torch.no_grad():
                    label = int(module(x[None]).argmax())
                decision = rule(module, x, label, test, sigma=SIGMA, generator=generator, cap=_CAP)
                spent["reference"].append(decision.evaluations + 1)

        return seconds(work) / count

    with engine(bench.subject, (sprt_design(test),)) as running:

        def ours() -> float:
            repeated = images * max(1, bench.size.engine_images // 4 // count)
            done, elapsed = _screened(running, repeated)
            spent["Guard"].extend(sum(screening.spent.values()) for screening in done[:count])
            return elapsed / len(repeated)

        found = bench.ratio(reference, ours, in_turns=False)
    detail = f"rate {test.theta:.3f} +- {test.indifference:.0%}, cap {_CAP}; evaluations: " + ", ".join(
        f"{side} {np.mean(each):.0f}" for side, each in spent.items()
    )
    reading = "as published" if rule is mutation_testing.as_published else "Wald after every copy"
    compare = f"mutation testing +-{test.indifference:.0%}, {reading}"
    return bench.row(number, compare, target, found, detail, spent=float(np.mean(spent["Guard"])))


def _theta(bench: Bench) -> float:
    """The published threshold: the mean normal label-change rate and 2.58 standard errors."""
    # Hypotheses that 64 copies can't tell apart, so that none is decided before.
    design = spec.SensitivitySpec(mutation=GAUSSIAN, p0=0.5, p1=0.5 + 1e-9, cap=64)
    with engine(bench.subject, (design,)) as running:
        done = screen(running, bench.subject.images[-100:])
    rates = [f.details["label_change_rate"] for s in done for f in s.findings if isinstance(f, Evidence)]
    return float(np.mean(rates) + 2.58 * np.std(rates) / math.sqrt(len(rates)))


def shared_stream(bench: Bench) -> Iterator[Row]:
    """Row 8: sensitivity and certificate on one stream of copies against two."""
    together = (SENSITIVITY, spec.SmoothingSpec(sigma=SIGMA, radius=SIGMA, cap=256))
    # The next number up is another deviation, and so another stream.
    other = math.nextafter(SIGMA, 1)
    apart = (SENSITIVITY, spec.SmoothingSpec(sigma=other, radius=other, cap=256))
    spent: dict[str, list[float]] = {"one": [], "two": []}
    with engine(bench.subject, together) as one, engine(bench.subject, apart) as two:
        images = bench.images(max(_STREAMED, bench.size.engine_images))

        def cost(running: Engine, name: str) -> float:
            done, elapsed = _screened(running, images)
            spent[name].append(evaluations(done) / len(done))
            return elapsed / len(done)

        found = bench.ratio(partial(cost, two, "two"), partial(cost, one, "one"))
    mean = {name: float(np.mean(each)) for name, each in spent.items()}
    detail = f"{mean['one']:.1f} evaluations a request on one stream, {mean['two']:.1f} on two"
    # What is saved is evaluations: more than their ratio there is only in what each costs beside the model.
    yield bench.row(8, "one stream against two, r = sigma", 1.4, found, detail, ceiling=mean["two"] / mean["one"])


def _screened(running: Engine, images: list[Float32Array]) -> tuple[list[Screening], float]:
    done: list[Screening] = []
    elapsed = seconds(lambda: done.extend(screen(running, images)))
    return done, elapsed
