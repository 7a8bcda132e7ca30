"""Choosing detector parameters by what a model does on benign samples."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from structlog.testing import capture_logs

from guard.offline.tune import choose_hypotheses, choose_squeezers, label_change_rates, stable_sigmas
from guard.profile import spec
from tests.offline.parts import Ruled

ALL_LEVELS = np.linspace(0, 1, 4, dtype=np.float32)
"""Exactly the values that two bits keep."""


def rng() -> np.random.Generator:
    """The same draws each time."""
    return np.random.default_rng(0)


def test_rates_are_label_changes() -> None:
    """A rate is the share of copies whose label differs from the sample's own, sample by sample."""
    above_half = Ruled(lambda x: x[:, 0] > 0.5, (2,))
    samples = np.array([[0.4, 0], [0.5, 0], [0.9, 0]], np.float32)
    rates = label_change_rates(above_half, samples, spec.Uniform(width=0.2), 2000, rng())
    expected = [0.25, 0.5, 0.0]
    for rate, chance in zip(rates[:2], expected[:2], strict=True):
        assert binomtest(round(rate * 2000), 2000, chance).pvalue > 1e-3
    assert rates[2] == 0


def test_batches_suit_the_replica() -> None:
    """Copies are classified in batches no larger than the replica likes."""
    backend = Ruled(lambda x: x[:, 0] > 0.5, (2,))
    label_change_rates(backend, np.zeros((3, 2), np.float32), spec.Gaussian(sigma=0.1), 24, rng())
    assert max(backend.batches) == backend.preferred_batch
    assert sum(backend.batches) == 3 * 25


@pytest.mark.parametrize("span", [1.0, 255.0])
@pytest.mark.parametrize(("margin", "sigma"), [(10.0, 0.35), (0.1, 0.05), (0.4, 0.2), (0.0, 0.01)])
def test_sigma_grows_with_the_margin(span: float, margin: float, sigma: float) -> None:
    """The noise is the largest at which benign inputs keep their labels: it follows the margin, in the input's units.

    A label at a distance of two deviations changes in 2 % of the copies; from 1.3 deviations on, in 9 % and more.
    """
    boundary = 0.5 * span
    backend = Ruled(lambda x: x[:, 0] >= boundary, (2,), (0.0, span))
    samples = np.full((96, 2), boundary + margin * span, np.float32)
    assert stable_sigmas(backend, samples, rng())[-1] == pytest.approx(sigma * span)


def test_sigma_is_for_nine_inputs_in_ten() -> None:
    """One benign input in twenty on the boundary does not lower the noise; one in five does."""
    backend = Ruled(lambda x: x[:, 0] >= 0.5, (2,))
    for share, sigma in ((0.05, 0.35), (0.2, 0.01)):
        samples = np.full((96, 2), 10, np.float32)
        samples[: round(96 * share)] = 0.5
        assert stable_sigmas(backend, samples, rng())[-1] == sigma


@pytest.mark.parametrize(("margin", "sigma", "warned"), [(0.0, 0.01, True), (0.02, 0.01, False), (0.1, 0.05, False)])
def test_noise_that_is_too_strong_is_admitted(margin: float, sigma: float, warned: bool) -> None:  # noqa: FBT001 - a table's column
    """Where even the weakest noise moves the labels, it is chosen with a warning; where it fits, without one."""
    backend = Ruled(lambda x: x[:, 0] >= 0.5, (2,))
    with capture_logs() as logs:
        assert stable_sigmas(backend, np.full((96, 2), 0.5 + margin, np.float32), rng())[-1] == pytest.approx(sigma)
    assert [(log["log_level"], log["sigma"]) for log in logs] == [("warning", sigma)] * warned
    assert all("weakest noise" in log["event"] and log["label_change_rate_of_one_in_ten"] > 0.3 for log in logs)


@pytest.mark.parametrize(
    ("rates", "p0", "p1"),
    [
        ([0.0] * 20, 0.02, 0.2),
        ([0.1] * 20, 0.1, 0.2),
        ([0.15] * 20, 0.15, 0.3),
        ([1.0] * 20, 0.25, 0.5),
        ([0.0] * 16 + [0.4] * 4, 0.02, 0.4),
    ],
)
def test_hypotheses(rates: list[float], p0: float, p1: float) -> None:
    """p0 is what three benign inputs in four stay under, p1 what nineteen in twenty do, kept apart and in limits."""
    assert choose_hypotheses(np.array(rates)) == pytest.approx((p0, p1))


@given(st.lists(st.floats(0, 1), min_size=1))
def test_hypotheses_always_make_a_test(rates: list[float]) -> None:
    """Whatever was measured, Wald's test gets two different hypotheses, and a detector that can be saved."""
    p0, p1 = choose_hypotheses(np.array(rates))
    assert 0 < p0 < p1 <= 0.5
    spec.SensitivitySpec(mutation=spec.Gaussian(sigma=0.1), p0=p0, p1=p1)


def flat(shape: tuple[int, ...]) -> np.ndarray:
    """Samples of every two-bit level."""
    return np.resize(ALL_LEVELS, (8, *shape)).astype(np.float32)


@pytest.mark.parametrize(
    ("shape", "kinds"),
    [
        ((1, 8, 8), (spec.BitDepth(bits=1), spec.Median(size=5), spec.NonLocalMeans(h=32))),
        ((8, 8, 3), (spec.BitDepth(bits=1), spec.Median(size=5), spec.NonLocalMeans(h=32))),
        ((16,), (spec.BitDepth(bits=1),)),
    ],
)
def test_robust_model_gets_the_strongest_squeezers(shape: tuple[int, ...], kinds: tuple[spec.Squeezer, ...]) -> None:
    """A slow model whose labels nothing moves gets the strongest of each kind; some are for images only."""

    def slow(x: torch.Tensor) -> torch.Tensor:
        time.sleep(0.002 * len(x))
        return torch.ones(len(x))

    assert choose_squeezers(Ruled(slow, shape), flat(shape)) == kinds


def test_non_local_means_earns_its_cost() -> None:
    """A model that answers in less time than it takes to make such a copy does without."""
    fast = Ruled(lambda x: torch.ones(len(x)), (1, 8, 8))
    assert choose_squeezers(fast, flat((1, 8, 8))) == (spec.BitDepth(bits=1), spec.Median(size=5))


def test_squeezers_keep_benign_labels() -> None:
    """A model that needs two bits gets the squeezer of two bits, the strongest that leaves its labels alone."""
    two_bits = Ruled(lambda x: ((x > 0.1) & (x < 0.9)).flatten(1).any(dim=1), (16,))
    with capture_logs() as logs:
        assert choose_squeezers(two_bits, flat((16,))) == (spec.BitDepth(bits=2),)
    assert not logs


def test_nineteen_in_twenty_are_enough() -> None:
    """A squeezer may move the labels of one benign input in twenty, and of no more."""
    in_between = Ruled(lambda x: ((x > 0.1) & (x < 0.9)).flatten(1).any(dim=1), (16,))
    for moving, bits in ((5, 1), (6, 2)):
        samples = np.ones((100, 16), np.float32)
        samples[:moving] = flat((16,))[0]
        assert choose_squeezers(in_between, samples) == (spec.BitDepth(bits=bits),)


def test_touchy_model_gets_the_weakest_squeezer() -> None:
    """A model whose labels every squeezer moves still gets one, with a warning: its scores are calibrated as any."""
    exact = Ruled(lambda x: (x == 0.3).flatten(1).any(dim=1), (1, 8, 8))
    noise = np.random.default_rng(0).random((8, 1, 8, 8), np.float32)
    noise[:, 0, 0, 0] = 0.3
    with capture_logs() as logs:
        assert choose_squeezers(exact, noise) == (spec.BitDepth(bits=6),)
    assert [(log["log_level"], log["squeezer"]) for log in logs] == [("warning", "bit_depth_6")]
    assert "every squeezer moves the labels" in logs[0]["event"]
