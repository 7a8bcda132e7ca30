"""The references of the benchmarks decide what their papers say; for sequential certification see test_voracek."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from benchmarks.references import cohen, mutation_testing
from benchmarks.references.art_detectors import ArtNetwork, ArtSqueezing
from benchmarks.references.art_smoothing import ArtSmoothing
from benchmarks.references.cohen import Certificate
from benchmarks.references.mutation_testing import Decision, Sprt
from tests.benchmarks.fake_model import ZERO, Flips, seeded

RUNS = 300
SIGNIFICANCE = 1e-4
"""A correct method fails here once in ten thousand seeds, and the seeds are fixed."""


def exceeds(errors: int, rate: float) -> bool:
    """Whether so many errors in RUNS refute that the rate of errors is `rate` or less."""
    return bool(stats.binomtest(errors, RUNS, rate, alternative="greater").pvalue < SIGNIFICANCE)


def scripted(changes: Iterable[int]) -> Callable[[Tensor], Tensor]:
    """A model whose label changes on exactly the copies with these numbers, counted from 1."""
    numbers, wanted = itertools.count(1), set(changes)
    return lambda _: torch.eye(2)[[int(next(numbers) in wanted)]]


def published(model: Callable[[Tensor], Tensor], test: Sprt) -> Decision:
    """The test as published, on zero."""
    return mutation_testing.as_published(model, ZERO, 0, test, sigma=1.0, generator=seeded())


def wald(model: Callable[[Tensor], Tensor], test: Sprt, *, seed: int = 0, cap: int | None = None) -> Decision:
    """Wald's test after every copy, on zero."""
    return mutation_testing.wald_every_copy(model, ZERO, 0, test, sigma=1.0, generator=seeded(seed), cap=cap)


def test_published_rule_runs_to_the_cap_on_a_stable_input() -> None:
    """The published rule looks only on a label change, so an input that never changes costs 500 and is normal."""
    model = Flips(1e-12)
    assert published(model, Sprt(0.2, 0.5)) == Decision(adversarial=False, decided=False, changes=0, evaluations=500)
    assert model.batches == [1] * 500


def test_the_two_readings_by_hand() -> None:
    """Of .3 against .1, Wald's test ends on the third change in a row, or after 12 copies without; as published, later.

    A change adds ln 3 = 1.099 and another copy ln (7 / 9) = -.251; the boundaries are +-ln 19 = 2.944.
    """
    test = Sprt(0.2, 0.5)
    assert wald(scripted(range(1, 9)), test) == Decision(adversarial=True, decided=True, changes=3, evaluations=3)
    assert wald(scripted([]), test) == Decision(adversarial=False, decided=True, changes=0, evaluations=12)
    # The fourth change is counted as a copy without one, when the third has been counted.
    assert published(scripted(range(1, 9)), test).evaluations == 4
    assert published(scripted([40]), test) == Decision(adversarial=False, decided=True, changes=1, evaluations=40)


def test_wald_stops_at_its_cap() -> None:
    """Undecided at the cap, Wald's test has spent just the cap, and calls the input normal."""
    assert wald(scripted([]), Sprt(0.2, 0.5), cap=11) == Decision(
        adversarial=False, decided=False, changes=0, evaluations=11
    )


def test_wald_errs_as_rarely_as_it_says() -> None:
    """At either end of the indifference region the test errs in at most alpha / (1 - beta) of its runs, and errs."""
    test = Sprt(0.2, 0.5)
    false_alarms = sum(wald(Flips(test.p0), test, seed=i).adversarial for i in range(RUNS))
    misses = sum(not wald(Flips(test.p1), test, seed=i).adversarial for i in range(RUNS))
    for errors in (false_alarms, misses):
        assert errors > 0
        assert not exceeds(errors, 0.05 / 0.95)


def certify_cohen(model: Flips, n: int, seed: int, alpha: float) -> Certificate:
    """Cohen et al.'s algorithm on zero."""
    return cohen.certify(model, ZERO, sigma=1.0, n=n, generator=seeded(seed), alpha=alpha)


def certify_art(model: Flips, n: int, seed: int, alpha: float) -> Certificate:
    """ART's on zero."""
    return ArtSmoothing(model, (1,), 2, sigma=1.0, seed=seed, alpha=alpha).certify(ZERO, n=n)


@pytest.mark.parametrize("certify", [certify_cohen, certify_art])
class TestFixedNumber:
    """Certification with a fixed number of copies: the reference and ART's."""

    def test_certifies_and_abstains(self, certify: Callable[[Flips, int, int, float], Certificate]) -> None:
        """A steady label is certified at a radius a little below the true one; an even split is abstained on."""
        found = certify(Flips(0.02), 2500, 0, 0.001)
        true_radius = float(stats.norm.isf(0.02))
        assert found.label == 0
        assert true_radius - 0.3 < found.radius < true_radius
        assert found.evaluations == 2600
        assert certify(Flips(0.5), 200, 0, 0.001) == Certificate(None, 0.0, 300)

    def test_a_clean_sweep_is_bounded_exactly(self, certify: Callable[[Flips, int, int, float], Certificate]) -> None:
        """If all n copies agree, the bound is the n-th root of alpha."""
        assert certify(Flips(1e-12), 1000, 0, 0.001).radius == pytest.approx(stats.norm.ppf(0.001 ** (1 / 1000)))

    def test_overstates_as_rarely_as_it_says(self, certify: Callable[[Flips, int, int, float], Certificate]) -> None:
        """The radius exceeds the true one in at most alpha of the runs, and in some."""
        true_radius = float(stats.norm.isf(0.2))
        errors = sum(certify(Flips(0.2), 200, seed, 0.05).radius > true_radius for seed in range(RUNS))
        assert errors > 0
        assert not exceeds(errors, 0.05)


def test_cohen_classifies_in_batches_of_1000() -> None:
    """100 copies to choose the class, then n in batches of 1000, the last one smaller."""
    model = Flips(0.02)
    certify_cohen(model, 2500, 0, 0.001)
    assert model.batches == [100, 1000, 1000, 500]


def test_squeezing_is_the_largest_distance() -> None:
    """The score is the largest L1 distance of softmax outputs, here by rounding to one bit; a flat image stays put."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).eval()
    squeezing = ArtSqueezing(module, (1, 8, 8), 3, bits=1, median_px=1)
    image = torch.rand(1, 8, 8)
    with torch.no_grad():
        moved = (module(image[None]).softmax(dim=1) - module(image.round()[None]).softmax(dim=1)).abs().sum()
    assert squeezing.score(image) == pytest.approx(float(moved), rel=1e-4)
    assert squeezing.score(torch.ones(1, 8, 8)) == 0.0


def test_the_network_says_its_log_odds() -> None:
    """ART's detector around a network answers the difference of its two outputs."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 2)).eval()
    image = torch.rand(1, 8, 8)
    benign, adversarial = network(image[None])[0].tolist()
    assert ArtNetwork(network, (1, 8, 8)).score(image) == pytest.approx(adversarial - benign, rel=1e-4)
