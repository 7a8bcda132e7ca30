"""Rows 4, 5 and 6: certificates, at a fixed number of copies and sequentially."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch

from benchmarks.engine.bench import Bench, share
from benchmarks.engine.clock import seconds
from benchmarks.engine.subject import SIGMA, engine, screen
from benchmarks.engine.table import Row
from benchmarks.references import cohen, voracek
from benchmarks.references.art_smoothing import ArtSmoothing
from guard.profile import spec
from guard.values import Certified, Float32Array, Screening

_N = 1000
_ALPHA = 0.001


def fixed(bench: Bench) -> Iterator[Row]:
    """Row 4: the reference algorithm at a fixed n, beside Guard's engine at the same n."""
    subject = bench.subject
    lenet = subject.name == "LeNet-5"
    art = ArtSmoothing(subject.module, subject.info.shape, 10, sigma=SIGMA, seed=bench.seed)
    design = spec.SmoothingSpec(sigma=SIGMA, radius=SIGMA, alpha=_ALPHA, cap=_N, first_chunk=_N, test="fixed")
    for name, target in (("Cohen et al.", 2.5 if lenet else 2.0), ("ART", 3.5 if lenet else 1.5)):

        def certify(x: torch.Tensor, name: str = name) -> cohen.Certificate:
            return art.certify(x, n=_N) if name == "ART" else _cohen(bench, x)

        yield _certificates(bench, 4, f"fixed n = {_N}, {name}", target, certify=certify, design=design, repeat=False)


def sequential(bench: Bench) -> Iterator[Row]:
    """Row 5: "certified at r?" asked sequentially, beside the reference at a fixed n."""
    targets = {"LeNet-5": (35, 8), "ResNet-20": (18, 7.5)}[bench.subject.name]
    for sigmas, target in zip((1.0, 2.0), targets, strict=True):
        design = spec.SmoothingSpec(sigma=SIGMA, radius=sigmas * SIGMA, alpha=_ALPHA, cap=_N)
        compare = f"certified at {sigmas:g} sigma? fixed n = {_N}"
        yield _certificates(bench, 5, compare, target, certify=partial(_cohen, bench), design=design)


def _cohen(bench: Bench, x: torch.Tensor) -> cohen.Certificate:
    return cohen.certify(bench.subject.module, x, sigma=SIGMA, n=_N, generator=bench.generator(), alpha=_ALPHA)


def _certificates(
    bench: Bench,
    number: int,
    compare: str,
    target: float,
    *,
    certify: Callable[[torch.Tensor], cohen.Certificate],
    design: spec.SmoothingSpec,
    repeat: bool = True,
) -> Row:
    """The reference also chooses its label by n0 copies, which Guard takes from the input itself."""
    certified: dict[str, list[bool]] = {"reference": [], "Guard": []}
    spent: list[int] = []
    images: list[Float32Array] = []
    count = bench.size.slow_images

    def reference() -> float:
        images[:] = bench.images(count)

        def work() -> None:
            for image in images:
                found = certify(torch.from_numpy(image))
                certified["reference"].append(found.label is not None and found.radius >= design.radius)

        return seconds(work) / count

    with engine(bench.subject, (design,)) as running:

        def ours() -> float:
            done: list[Screening] = []
            shown = images * max(1, bench.size.engine_images // 4 // count) if repeat else images
            elapsed = seconds(lambda: done.extend(screen(running, shown)))
            certified["Guard"].extend(isinstance(s.findings[0], Certified) for s in done[:count])
            spent.extend(sum(s.spent.values()) for s in done[:count])
            return elapsed / len(shown)

        found = bench.ratio(reference, ours, in_turns=False)
    detail = (
        f"alpha {_ALPHA:g}; Guard: {np.mean(spent):.0f} evaluations, reference {cohen.N0 + _N}; certified: "
        + ", ".join(f"{side} {share(certified[side])}" for side in certified)
    )
    return bench.row(number, compare, target, found, detail, spent=float(np.mean(spent)))


def confidence_sequence(bench: Bench) -> Iterator[Row]:
    """Row 6: sequential certification with Voracek's confidence sequence (2024), in mixed batches as his."""
    module = bench.subject.module
    design = spec.SmoothingSpec(sigma=SIGMA, radius=SIGMA, alpha=_ALPHA, cap=_N)
    tables = voracek.betting_boundaries(voracek.threshold_of(SIGMA, SIGMA), _ALPHA, _N)
    certified: dict[str, list[bool]] = {"reference": [], "Guard": []}
    spent: dict[str, list[int]] = {"reference": [], "Guard": []}
    images: list[Float32Array] = []
    count = 4 * bench.size.slow_images

    def reference() -> float:
        images[:] = bench.images(count)
        x = torch.from_numpy(np.stack(images))

        def work() -> None:
            with torch.no_grad():
                labels = module(x).argmax(dim=1).tolist()
            outcomes = voracek.certify_pool(module, x, labels, tables, sigma=SIGMA, generator=bench.generator())
            certified["reference"].extend(o.answer is voracek.Answer.CERTIFIED for o in outcomes)
            spent["reference"].extend(o.evaluations for o in outcomes)

        return seconds(work) / count

    with engine(bench.subject, (design,)) as running:

        def ours() -> float:
            done: list[Screening] = []
            elapsed = seconds(lambda: done.extend(screen(running, images)))
            certified["Guard"].extend(isinstance(s.findings[0], Certified) for s in done)
            spent["Guard"].extend(sum(s.spent.values()) for s in done)
            return elapsed / len(images)

        found = bench.ratio(reference, ours, in_turns=False)
    detail = f"at sigma, alpha {_ALPHA:g}, horizon {_N}; " + "; ".join(
        f"{side}: {np.mean(spent[side]):.0f} evaluations, certified {share(certified[side])}" for side in certified
    )
    compare = "Voracek's confidence sequence (betting)"
    yield bench.row(6, compare, 2.7, found, detail, spent=float(np.mean(spent["Guard"])))
