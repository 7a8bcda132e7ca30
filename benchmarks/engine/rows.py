"""Rows 1 to 8: what screening costs, one side Guard's engine and the other a reference, on the same images."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch

from benchmarks.engine.clock import Ratio, ratio, seconds
from benchmarks.engine.subject import SIGMA, Subject, engine, evaluation_s, evaluations, screen
from benchmarks.engine.table import Better, Row
from benchmarks.references import cohen, mutation_testing, voracek
from benchmarks.references.art_detectors import ArtNetwork, ArtSqueezing
from benchmarks.references.art_smoothing import ArtSmoothing
from guard.model.backend import Backend
from guard.model.sweep import best_batch
from guard.offline import nets
from guard.profile import spec
from guard.screen.backends import network_backend
from guard.screen.engine import Engine
from guard.stats import clopper_pearson_interval
from guard.values import Certified, Evidence, Float32Array, Screening

GAUSSIAN = spec.Gaussian(sigma=SIGMA)
SENSITIVITY = spec.SensitivitySpec(mutation=GAUSSIAN, p0=0.02, p1=0.2)
_CAP = 500
_N = 1000
_ALPHA = 0.001


@dataclass(frozen=True, slots=True)
class Size:
    """How much work a model is given: images a round for the engine, for slow references, and rounds."""

    engine_images: int
    slow_images: int
    rounds: int


SIZES = {"LeNet-5": Size(300, 10, 7), "ResNet-20": Size(16, 6, 5)}


@dataclass(slots=True)
class Bench:
    """One model's rows. Each method measures one comparison."""

    subject: Subject
    size: Size
    seed: int
    _turn: Iterator[int] = field(default_factory=itertools.count)

    def _images(self, count: int, *, attacked_share: float = 0.0) -> list[Float32Array]:
        """The next images in turn, benign ones first."""
        start = next(self._turn) * count
        attacked = round(count * attacked_share)
        benign = [self.subject.images[(start + i) % len(self.subject.images)] for i in range(count - attacked)]
        return benign + [self.subject.attacked[(start + i) % len(self.subject.attacked)] for i in range(attacked)]

    def _generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed + next(self._turn))

    def _row(
        self, number: int, compare: str, target: float, found: Ratio, detail: str, *, floor_s: float | None = None
    ) -> Row:
        """A row; `floor_s` is what Guard's evaluations for a request take, in full batches and with nothing else."""
        ceiling = None if floor_s is None else found.numerator / floor_s
        better: Better = "at most" if number == 1 else "at least"
        return Row(
            number, compare, self.subject.name, found.value, found.low, found.high, target, better, detail, ceiling
        )

    def rho(self) -> Iterator[Row]:
        """Row 1: time per screened request over evaluations spent times the time of one at the best batch."""
        target = 1.15 if self.subject.name == "LeNet-5" else 1.02
        replica = self.subject.replica()
        for name, radius in (("half sigma", 0.5), ("sigma", 1.0)):
            specs = (SENSITIVITY, spec.SmoothingSpec(sigma=SIGMA, radius=radius * SIGMA, cap=256))
            with engine(self.subject, specs) as running:
                spent: list[float] = []

                def cost(running: Engine = running, spent: list[float] = spent) -> float:
                    images = self._images(self.size.engine_images)
                    done: list[Screening] = []
                    elapsed = seconds(lambda: done.extend(screen(running, images)))
                    spent.append(evaluations(done) / len(done))
                    return elapsed / evaluations(done)

                calls = self.size.engine_images * 25 // self.subject.batch
                found = ratio(cost, partial(evaluation_s, self.subject, replica, calls), self.size.rounds + 2)
            detail = (
                f"sensitivity and a certificate of {name}; {np.mean(spent):.1f} evaluations a request, batches of "
                f"{self.subject.batch}, {self.subject.evaluation_s * 1e6:.1f} us an evaluation"
            )
            yield self._row(1, f"rho, certificate of {name}", target, found, detail)
        replica.close()

    def mutation_testing(self) -> Iterator[Row]:
        """Rows 2 and 3: the published rule and Wald's, one copy at a time, against the engine with Wald's."""
        theta = self._theta()
        lenet = self.subject.name == "LeNet-5"
        targets = {0.5: (140, 17) if lenet else (None, None), 0.1: (30, 20) if lenet else (65, 3.5)}
        for number, indifference in ((2, 0.5), (3, 0.1)):
            for reading, target in zip(("as published", "Wald after every copy"), targets[indifference], strict=True):
                if target is not None:
                    yield self._sprt(number, indifference, theta, reading, target)

    def _sprt(self, number: int, indifference: float, theta: float, reading: str, target: float) -> Row:
        test = mutation_testing.Sprt(theta, indifference)
        rule = mutation_testing.as_published if reading == "as published" else mutation_testing.wald_every_copy
        design = spec.SensitivitySpec(
            mutation=GAUSSIAN, p0=test.p0, p1=test.p1, alpha=test.alpha, beta=test.beta, cap=_CAP
        )
        flags: dict[str, list[bool]] = {"reference": [], "Guard": []}
        spent: dict[str, list[int]] = {"reference": [], "Guard": []}
        images: list[Float32Array] = []
        count = max(5, self.size.slow_images)

        def reference() -> float:
            images[:] = self._images(count, attacked_share=0.2)
            generator = self._generator()

            def work() -> None:
                for image in images:
                    x = torch.from_numpy(image)
                    with torch.no_grad():
                        label = int(self.subject.module(x[None]).argmax())
                    decision = rule(self.subject.module, x, label, test, sigma=SIGMA, generator=generator, cap=_CAP)
                    flags["reference"].append(decision.adversarial)
                    spent["reference"].append(decision.evaluations + 1)

            return seconds(work) / count

        with engine(self.subject, (design,)) as running:

            def ours() -> float:
                repeated = images * max(1, self.size.engine_images // 4 // count)
                done: list[Screening] = []
                elapsed = seconds(lambda: done.extend(screen(running, repeated)))
                for screening in done[:count]:
                    (found,) = screening.findings
                    assert isinstance(found, Evidence)  # noqa: S101 - the design never abstains
                    flags["Guard"].append(found.details["log_likelihood_ratio"] >= test.accept)
                    spent["Guard"].append(sum(screening.spent.values()))
                return elapsed / len(repeated)

            found = ratio(reference, ours, self.size.rounds, in_turns=False, pooled=True)
        detail = f"rate {theta:.3f} +- {indifference:.0%}, cap {_CAP}; " + "; ".join(
            f"{side}: {np.mean(spent[side]):.0f} evaluations, flagged {_share(flags[side], count)}" for side in flags
        )
        compare = f"mutation testing +-{indifference:.0%}, {reading}"
        return self._row(number, compare, target, found, detail, floor_s=self._floor_s(spent["Guard"]))

    def _floor_s(self, spent: Sequence[float]) -> float:
        return float(np.mean(spent)) * self.subject.evaluation_s

    def _theta(self) -> float:
        """The published threshold: the mean normal label-change rate and 2.58 standard errors."""
        # Hypotheses that 64 copies can't tell apart, so that none is decided before.
        design = spec.SensitivitySpec(mutation=GAUSSIAN, p0=0.5, p1=0.5 + 1e-9, cap=64)
        with engine(self.subject, (design,)) as running:
            done = screen(running, self.subject.images[-100:])
        rates = [f.details["label_change_rate"] for s in done for f in s.findings if isinstance(f, Evidence)]
        return float(np.mean(rates) + 2.58 * np.std(rates) / math.sqrt(len(rates)))

    def fixed_certificates(self) -> Iterator[Row]:
        """Row 4: the reference algorithm at a fixed n, beside Guard's engine at the same n."""
        lenet = self.subject.name == "LeNet-5"
        art = ArtSmoothing(self.subject.module, self.subject.info.shape, 10, sigma=SIGMA, seed=self.seed)
        fixed = spec.SmoothingSpec(sigma=SIGMA, radius=SIGMA, alpha=_ALPHA, cap=_N, first_chunk=_N, test="fixed")
        for name, target in (("Cohen et al.", 2.5 if lenet else 2.0), ("ART", 3.5 if lenet else 1.5)):

            def certify(x: torch.Tensor, name: str = name) -> cohen.Certificate:
                if name == "ART":
                    return art.certify(x, n=_N)
                return self._cohen(x)

            yield self._certificates(4, f"fixed n = {_N}, {name}", target, certify, fixed, extra=cohen.N0)

    def sequential_certificates(self) -> Iterator[Row]:
        """Row 5: "certified at r?" asked sequentially, beside the reference at a fixed n."""
        targets = {"LeNet-5": (35, 8), "ResNet-20": (18, 7.5)}[self.subject.name]
        for sigmas, target in zip((1.0, 2.0), targets, strict=True):
            anytime = spec.SmoothingSpec(sigma=SIGMA, radius=sigmas * SIGMA, alpha=_ALPHA, cap=_N)
            compare = f"certified at {sigmas:g} sigma? fixed n = {_N}"
            yield self._certificates(5, compare, target, self._cohen, anytime, radius=sigmas * SIGMA)

    def _cohen(self, x: torch.Tensor) -> cohen.Certificate:
        return cohen.certify(self.subject.module, x, sigma=SIGMA, n=_N, generator=self._generator(), alpha=_ALPHA)

    def _certificates(
        self,
        number: int,
        compare: str,
        target: float,
        certify: Callable[[torch.Tensor], cohen.Certificate],
        design: spec.SmoothingSpec,
        *,
        radius: float = SIGMA,
        extra: int = 0,
    ) -> Row:
        certified: dict[str, list[bool]] = {"reference": [], "Guard": []}
        spent: list[int] = []
        images: list[Float32Array] = []
        count = self.size.slow_images

        def reference() -> float:
            images[:] = self._images(count)

            def work() -> None:
                for image in images:
                    found = certify(torch.from_numpy(image))
                    certified["reference"].append(found.label is not None and found.radius >= radius)

            return seconds(work) / count

        with engine(self.subject, (design,)) as running:

            def ours() -> float:
                done: list[Screening] = []
                repeated = images if extra else images * max(1, self.size.engine_images // 4 // count)
                elapsed = seconds(lambda: done.extend(screen(running, repeated)))
                certified["Guard"].extend(isinstance(s.findings[0], Certified) for s in done[:count])
                spent.extend(sum(s.spent.values()) for s in done[:count])
                # The reference also selects its label by n0 copies, which Guard takes from the input itself.
                return elapsed / len(repeated)

            found = ratio(reference, ours, self.size.rounds, in_turns=False, pooled=True)
        detail = f"alpha {_ALPHA:g}; Guard: {np.mean(spent):.0f} evaluations; certified: " + ", ".join(
            f"{side} {_share(certified[side])}" for side in certified
        )
        return self._row(number, compare, target, found, detail, floor_s=self._floor_s(spent))

    def confidence_sequence(self) -> Iterator[Row]:
        """Row 6: sequential certification with Voracek's confidence sequence (2024), in mixed batches as his."""
        design = spec.SmoothingSpec(sigma=SIGMA, radius=SIGMA, alpha=_ALPHA, cap=_N)
        tables = voracek.betting_boundaries(voracek.threshold_of(SIGMA, SIGMA), _ALPHA, _N)
        certified: dict[str, list[bool]] = {"reference": [], "Guard": []}
        spent: dict[str, list[int]] = {"reference": [], "Guard": []}
        images: list[Float32Array] = []
        count = 4 * self.size.slow_images

        def reference() -> float:
            images[:] = self._images(count)
            x = torch.from_numpy(np.stack(images))

            def work() -> None:
                with torch.no_grad():
                    labels = self.subject.module(x).argmax(dim=1).tolist()
                outcomes = voracek.certify_pool(
                    self.subject.module, x, labels, tables, sigma=SIGMA, generator=self._generator()
                )
                certified["reference"].extend(o.answer is voracek.Answer.CERTIFIED for o in outcomes)
                spent["reference"].extend(o.evaluations for o in outcomes)

            return seconds(work) / count

        with engine(self.subject, (design,)) as running:

            def ours() -> float:
                done: list[Screening] = []
                elapsed = seconds(lambda: done.extend(screen(running, images)))
                certified["Guard"].extend(isinstance(s.findings[0], Certified) for s in done)
                spent["Guard"].extend(sum(s.spent.values()) for s in done)
                return elapsed / len(images)

            found = ratio(reference, ours, self.size.rounds, in_turns=False, pooled=True)
        detail = f"at sigma, alpha {_ALPHA:g}, horizon {_N}; " + "; ".join(
            f"{side}: {np.mean(spent[side]):.0f} evaluations, certified {_share(certified[side])}" for side in certified
        )
        compare = "Voracek's confidence sequence (betting)"
        yield self._row(6, compare, 2.7, found, detail, floor_s=self._floor_s(spent["Guard"]))

    def detectors(self) -> Iterator[Row]:
        """Row 7: squeezing and a detector network in ART, one request at a time, beside the engine under load."""
        lenet = self.subject.name == "LeNet-5"
        shape = self.subject.info.shape
        bits = 1 if lenet else 5
        squeezing = spec.SqueezingSpec(squeezers=(spec.BitDepth(bits=bits), spec.Median(size=3)))
        art_squeezing = ArtSqueezing(self.subject.module, shape, 10, bits=bits, median_px=2)
        floor_s = (1 + len(squeezing.squeezers)) * self.subject.evaluation_s
        yield self._detector("squeezing, ART", 35 if lenet else 4, art_squeezing.score, squeezing, floor_s=floor_s)
        net = nets.SmallNet(shape, 2, self.subject.info.bounds).eval()
        art_network = ArtNetwork(net, shape)
        design = spec.NetworkSpec(sha256="")
        backend = network_backend(design, nets.to_onnx(net, shape), self.subject.info)
        sweep = best_batch(backend)
        backend.preferred_batch = sweep.batch
        compare, target = "detector network, ART", 18 if lenet else 4
        floor_s = sweep.evaluation_s
        yield self._detector(compare, target, art_network.score, design, floor_s=floor_s, network=backend)
        backend.close()

    def _detector(
        self,
        compare: str,
        target: float,
        score: Callable[[torch.Tensor], float],
        design: spec.DetectorSpec,
        *,
        floor_s: float,
        network: Backend | None = None,
    ) -> Row:
        count = 20 * self.size.slow_images

        def reference() -> float:
            images = [torch.from_numpy(image) for image in self._images(count)]
            return seconds(lambda: [score(image) for image in images]) / count

        with engine(self.subject, (design,), network=network) as running:

            def ours() -> float:
                images = self._images(4 * count)
                return seconds(lambda: screen(running, images)) / len(images)

            found = ratio(reference, ours, self.size.rounds)
        return self._row(7, compare, target, found, "one request at a time there, 128 in flight here", floor_s=floor_s)

    def shared_stream(self) -> Iterator[Row]:
        """Row 8: sensitivity and certificate on one stream of copies against two."""
        together = (SENSITIVITY, spec.SmoothingSpec(sigma=SIGMA, radius=SIGMA, cap=256))
        # The next number up is another deviation, and so another stream.
        other = math.nextafter(SIGMA, 1)
        apart = (SENSITIVITY, spec.SmoothingSpec(sigma=other, radius=other, cap=256))
        spent: dict[str, float] = {}
        with engine(self.subject, together) as one, engine(self.subject, apart) as two:

            def cost(running: Engine, name: str, images: Sequence[Float32Array]) -> float:
                done: list[Screening] = []
                elapsed = seconds(lambda: done.extend(screen(running, images)))
                spent[name] = evaluations(done) / len(done)
                return elapsed / len(done)

            images = self._images(self.size.engine_images)
            found = ratio(lambda: cost(two, "two", images), lambda: cost(one, "one", images), self.size.rounds)
        detail = f"{spent['one']:.1f} evaluations a request on one stream, {spent['two']:.1f} on two"
        floor_s = found.numerator * spent["one"] / spent["two"]  # what is saved is evaluations
        yield self._row(8, "one stream against two, r = sigma", 1.4, found, detail, floor_s=floor_s)


def _share(flags: Sequence[bool], group: int = 0) -> str:
    """Counts with an interval; for groups of which a fifth at the end is attacked, benign and attacked apart."""
    if not group:
        low, high = clopper_pearson_interval(sum(flags), len(flags))
        return f"{sum(flags)} of {len(flags)} [{low:.0%}, {high:.0%}]"
    attacked = round(group * 0.2)
    places = [i % group >= group - attacked for i in range(len(flags))]
    bad = [flag for flag, is_attacked in zip(flags, places, strict=True) if is_attacked]
    good = [flag for flag, is_attacked in zip(flags, places, strict=True) if not is_attacked]
    return f"{sum(good)} of {len(good)} benign and {sum(bad)} of {len(bad)} attacked"
