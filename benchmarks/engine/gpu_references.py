"""The references on the same GPU, each beside the engine on the same work: rows 2 to 7 of the table for the CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch

from benchmarks.engine.bench import share
from benchmarks.engine.clock import Cost, ratio, seconds
from benchmarks.engine.gpu_subject import Subject, providers, running
from benchmarks.engine.gpu_table import Figure
from benchmarks.engine.subject import SIGMA, screen
from benchmarks.references import cohen, mutation_testing, voracek
from benchmarks.references.art_detectors import ArtNetwork, ArtSqueezing
from benchmarks.references.art_smoothing import ArtSmoothing
from guard.model.backend import Backend
from guard.model.sweep import best_batch
from guard.offline import nets
from guard.offline.residual import ResidualNet
from guard.profile import spec
from guard.screen.backends import network_backend
from guard.screen.engine import Engine
from guard.values import Certified, Float32Array

_TEST = mutation_testing.Sprt(theta=0.1, indifference=0.5)
_AT_LEAST_ONE_AT_A_TIME = 50.0
_BITS, _MEDIAN_PX = 5, 3


def one_at_a_time(subject: Subject, backend: Backend) -> Iterator[Figure]:
    """Mutation testing as published and with Wald's test, a copy at a time, over the engine at equal error rates."""
    cap = subject.size.cap
    design = spec.SensitivitySpec(
        mutation=spec.Gaussian(sigma=SIGMA), p0=_TEST.p0, p1=_TEST.p1, alpha=_TEST.alpha, beta=_TEST.beta, cap=cap
    )
    generator = _generator(subject)
    detail = f"rate {_TEST.theta:g} +- {_TEST.indifference:.0%}, cap {cap}"
    with running(subject, backend, design) as engine:
        for rule, target in (
            (mutation_testing.as_published, _AT_LEAST_ONE_AT_A_TIME),
            (mutation_testing.wald_every_copy, None),
        ):

            def decide(x: torch.Tensor, rule: Callable[..., mutation_testing.Decision] = rule) -> object:
                with torch.no_grad():
                    label = int(subject.module(x[None]).argmax())
                return rule(subject.module, x, label, _TEST, sigma=SIGMA, generator=generator, cap=cap)

            words = f"mutation testing one at a time, {rule.__name__.replace('_', ' ')}"
            ours = _ours(engine, _again(subject, _chosen(subject), 1.0))
            yield replace(_over(subject, words, _theirs(subject, decide), ours, detail), target=target)


def fixed(subject: Subject, backend: Backend) -> Iterator[Figure]:
    """Certification at a fixed n by Cohen et al. and by ART, over the engine at the same n and sequentially."""
    n, generator = subject.size.n, _generator(subject)
    art = ArtSmoothing(subject.module, subject.info.shape, subject.info.classes, sigma=SIGMA, seed=0)

    def certify(x: torch.Tensor) -> object:
        batch = subject.size.bucket
        return cohen.certify(subject.module, x, sigma=SIGMA, n=n, generator=generator, batch=batch)

    def certify_art(x: torch.Tensor) -> object:
        return art.certify(x, n=n)

    for name, theirs in (("Cohen et al.", certify), ("ART", certify_art)):
        for test in ("fixed", "sequential") if theirs is certify else ("fixed",):
            design = spec.SmoothingSpec(sigma=SIGMA, radius=SIGMA, alpha=cohen.ALPHA, cap=n)
            if test == "fixed":
                design = design.model_copy(update={"test": test, "first_chunk": n})
            with running(subject, backend, design) as engine:
                words = f"certified at sigma, fixed n = {n}, {name}"
                ours = _ours(engine, _again(subject, _chosen(subject), 1 / 40))
                yield _over(subject, words, _theirs(subject, theirs), ours, f"Guard's {test} test")


def confidence_sequence(subject: Subject, backend: Backend) -> Iterator[Figure]:
    """Voracek's confidence sequence in mixed batches, over the engine's sequential certificate."""
    n, generator = subject.size.n, _generator(subject)
    tables = voracek.betting_boundaries(voracek.threshold_of(SIGMA, SIGMA), cohen.ALPHA, n)
    images = subject.images[: 4 * subject.slow]
    x = torch.tensor(images, device=subject.device)
    certified: dict[str, list[bool]] = {"reference": [], "Guard": []}

    def theirs() -> float:
        def work() -> None:
            with torch.no_grad():
                labels = subject.module(x).argmax(dim=1).tolist()
            found = voracek.certify_pool(subject.module, x, labels, tables, sigma=SIGMA, generator=generator)
            certified["reference"] = [outcome.answer is voracek.Answer.CERTIFIED for outcome in found]

        return seconds(work) / len(images)

    design = spec.SmoothingSpec(sigma=SIGMA, radius=SIGMA, alpha=cohen.ALPHA, cap=n)
    with running(subject, backend, design) as engine:
        done = screen(engine, images)
        certified["Guard"] = [isinstance(screening.findings[0], Certified) for screening in done]
        theirs()  # libraries choose their algorithms at the first call of a size
        found = ratio(theirs, _ours(engine, _again(subject, images, 1 / 10)), subject.size.slow_rounds)
    detail = f"horizon {n}; certified: " + ", ".join(f"{side} {share(flags)}" for side, flags in certified.items())
    words = "certified at sigma, Voracek's confidence sequence (betting), over Guard"
    yield Figure(subject.name, words, *found[:3], detail=detail)


def squeezing(subject: Subject, backend: Backend) -> Iterator[Figure]:
    """Feature squeezing from ART's parts, a request at a time, over the engine."""
    shape, classes = subject.info.shape, subject.info.classes
    art = ArtSqueezing(subject.module, shape, classes, bits=_BITS, median_px=_MEDIAN_PX)
    design = spec.SqueezingSpec(squeezers=(spec.BitDepth(bits=_BITS), spec.Median(size=_MEDIAN_PX)))
    with running(subject, backend, design) as engine:
        ours = _ours(engine, subject.shown(1 / 4))
        yield _over(subject, "squeezing, ART", _theirs(subject, art.score), ours, f"{_BITS} bits and a median")


def network(subject: Subject, backend: Backend) -> Iterator[Figure]:
    """ART's detector network, a request at a time, over the engine with the same network in ONNX Runtime."""
    shape, where = subject.info.shape, providers(subject.device)
    if where is None:
        return  # said of ONNX Runtime already
    net = ResidualNet(shape, 2, subject.info.bounds).eval()
    content = nets.to_onnx(net, shape)
    art = ArtNetwork(net.to(subject.device), shape)
    design = spec.NetworkSpec(sha256="")
    detector = network_backend(design, content, subject.info, providers=where)
    detector.preferred_batch = best_batch(detector).batch
    with running(subject, backend, design, network=detector) as engine:
        ours = _ours(engine, subject.shown())
        yield _over(subject, "detector network, ART", _theirs(subject, art.score), ours)
    detector.close()


PARTS: tuple[Callable[[Subject, Backend], Iterator[Figure]], ...] = (
    one_at_a_time,
    fixed,
    confidence_sequence,
    squeezing,
    network,
)


def _over(subject: Subject, words: str, theirs: Cost, ours: Cost, detail: str = "") -> Figure:
    found = ratio(theirs, ours, subject.size.slow_rounds)
    return Figure(subject.name, f"{words}, over Guard", *found[:3], detail=detail)


def _theirs(subject: Subject, decide: Callable[[torch.Tensor], object]) -> Cost:
    """Seconds an input, one after the other, which is on the device already."""
    inputs = [torch.tensor(image, device=subject.device) for image in _chosen(subject)]
    decide(inputs[0])  # as in `confidence_sequence`
    return lambda: seconds(lambda: [decide(x) for x in inputs]) / len(inputs)


def _ours(engine: Engine, images: Sequence[Float32Array]) -> Cost:
    """Seconds an input, with as many in flight as keep the engine busy."""
    return lambda: seconds(lambda: screen(engine, images)) / len(images)


def _chosen(subject: Subject) -> Float32Array:
    return subject.images[: subject.slow]


def _again(subject: Subject, images: Float32Array, part: float) -> list[Float32Array]:
    """The images, over and over, as many as a part of a round."""
    count = max(len(images), len(subject.shown(part)))
    return list(images[np.arange(count) % len(images)])


def _generator(subject: Subject) -> torch.Generator:
    return torch.Generator(subject.device).manual_seed(0)
