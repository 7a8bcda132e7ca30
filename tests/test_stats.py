"""Statistics: each function against an independent reading, and at its extremes. Error rates: tests/distribution."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import integrate
from scipy import stats as distributions

from guard import stats
from guard.stats import Sprt

DESIGN = {"p0": 0.02, "p1": 0.2, "alpha": 0.01, "beta": 0.05}
RATES = (1e-300, 1e-24, 1e-7, 0.001, 0.1587, 0.4999, 0.9, 1 - 1e-9)


class TestSprt:
    """Wald's test."""

    @pytest.mark.parametrize(
        ("changes", "n", "state"),
        [
            (0, 0, Sprt.UNDECIDED),
            (0, 14, Sprt.UNDECIDED),
            (0, 15, Sprt.STABLE),
            (1, 16, Sprt.UNDECIDED),
            (1, 27, Sprt.UNDECIDED),
            (1, 28, Sprt.STABLE),
            (2, 2, Sprt.SENSITIVE),
            (1, 1, Sprt.UNDECIDED),
            (2, 3, Sprt.UNDECIDED),
            (3, 8, Sprt.SENSITIVE),
        ],
    )
    def test_decisions(self, changes: int, n: int, state: Sprt) -> None:
        """Both boundaries are looked at: a stable input is decided after 15 copies without a change."""
        assert stats.wald_decision(changes, n, **DESIGN) is state

    def test_matches_the_product_of_likelihoods(self) -> None:
        """The ratio is that of the two binomial likelihoods, and decides as Wald's inequalities on it do."""
        for n in range(1, 65):
            for changes in range(n + 1):
                ratio = math.exp(stats.wald_log_likelihood_ratio(changes, n, 0.02, 0.2))
                expected = distributions.binom.pmf(changes, n, 0.2) / distributions.binom.pmf(changes, n, 0.02)
                assert ratio == pytest.approx(expected, rel=1e-9)
                stable, sensitive = expected <= 0.05 / 0.99, expected >= 0.95 / 0.01
                state = Sprt.SENSITIVE if sensitive else Sprt.STABLE if stable else Sprt.UNDECIDED
                assert stats.wald_decision(changes, n, **DESIGN) is state


class TestClopperPearson:
    """Exact binomial bounds."""

    @pytest.mark.parametrize(("successes", "n"), [(0, 1), (1, 1), (0, 30), (7, 30), (29, 30), (30, 30), (3, 1000)])
    @pytest.mark.parametrize("confidence", [0.9, 0.95, 0.999])
    def test_matches_scipy(self, successes: int, n: int, confidence: float) -> None:
        """Interval and one-sided bounds are those of scipy's exact binomial test."""
        test = distributions.binomtest(successes, n)
        both = test.proportion_ci(confidence, method="exact")
        assert stats.clopper_pearson_interval(successes, n, confidence) == pytest.approx((both.low, both.high))
        for alternative, bound in (("greater", stats.clopper_pearson_lower), ("less", stats.clopper_pearson_upper)):
            one = distributions.binomtest(successes, n, alternative=alternative).proportion_ci(confidence, "exact")
            expected = one.low if alternative == "greater" else one.high
            assert bound(successes, n, 1 - confidence) == pytest.approx(expected)

    def test_nothing_observed(self) -> None:
        """Without observations the interval says nothing."""
        assert stats.clopper_pearson_interval(0, 0) == (0.0, 1.0)


class TestEvidence:
    """The e-process for a label-change rate, and the confidence sequence dual to it."""

    @pytest.mark.parametrize(("changes", "n", "k0"), [(0, 20, 0.3), (3, 40, 0.2), (10, 40, 0.2), (1, 1, 0.5)])
    def test_is_the_mixture(self, changes: int, n: int, k0: float) -> None:
        """The e-value is the likelihood averaged over the Jeffreys prior on (0, k0), over that at k0."""

        def prior(k: float) -> float:
            return 1 / math.sqrt(k * (1 - k))

        def weighted(k: float) -> float:
            return prior(k) * k**changes * (1 - k) ** (n - changes)

        for low, high, log_e_value in (
            (0.0, k0, stats.log_e_value_below),
            (k0, 1.0, stats.log_e_value_above),
        ):
            mixture = integrate.quad(weighted, low, high)[0] / integrate.quad(prior, low, high)[0]
            expected = mixture / (k0**changes * (1 - k0) ** (n - changes))
            assert math.exp(log_e_value(changes, n, k0)) == pytest.approx(expected, rel=1e-6)

    @pytest.mark.parametrize("k0", [1e-7, 0.02, 0.3085, 0.9])
    def test_fair_at_the_boundary(self, k0: float) -> None:
        """The next copy is expected to leave the e-value where it is if kappa = k0, for either side."""
        for changes, n in ((0, 0), (0, 5), (2, 5), (5, 5), (40, 60)):
            for log_e_value in (stats.log_e_value_below, stats.log_e_value_above):
                after = k0 * math.exp(log_e_value(changes + 1, n + 1, k0))
                after += (1 - k0) * math.exp(log_e_value(changes, n + 1, k0))
                assert after == pytest.approx(math.exp(log_e_value(changes, n, k0)), rel=1e-6)

    @pytest.mark.parametrize(("sigmas", "copies"), [(0.5, 22), (1.0, 47), (2.0, 351)])
    def test_price_of_a_certificate(self, sigmas: float, copies: int) -> None:
        """At alpha = .001 a radius of sigma takes 47 copies that all agree, one of 2 sigma 351."""
        k0 = stats.label_change_rate_at(sigmas * 0.3, 0.3)
        assert stats.log_e_value_below(0, copies, k0) >= math.log(1000) > stats.log_e_value_below(0, copies - 1, k0)

    @pytest.mark.parametrize("alpha", [0.05, 0.001])
    def test_upper_bound_is_dual(self, alpha: float) -> None:
        """A rate is above the anytime upper bound exactly if its e-value reaches 1 / alpha."""
        for n in (1, 8, 24, 64, 500):
            for changes in {0, 1, n // 8, n // 2} - {n}:
                bound = stats.anytime_upper_bound(changes, n, alpha)
                assert changes / n <= bound <= 1
                for k0 in np.linspace(changes / n, 1, 52)[1:-1]:
                    rejected = stats.log_e_value_below(changes, n, float(k0)) >= -math.log(alpha)
                    assert rejected is bool(k0 >= bound)

    def test_upper_bound_needs_evidence(self) -> None:
        """No copies, or only changed ones, bound nothing; holding at every n at once costs some width."""
        assert stats.anytime_upper_bound(0, 0, 0.01) == 1.0
        assert stats.anytime_upper_bound(9, 9, 0.01) == 1.0
        assert stats.clopper_pearson_upper(2, 50, 0.01) < stats.anytime_upper_bound(2, 50, 0.01) < 1

    @pytest.mark.filterwarnings("error")
    @pytest.mark.parametrize("n", [0, 1, 64, 100_000])
    @pytest.mark.parametrize("k0", RATES)
    def test_extremes_are_finite(self, n: int, k0: float) -> None:
        """Evidence stays finite for many copies, none or all changed, and any rate a float can hold."""
        for changes in {0, min(1, n), n // 100, n // 2, n}:
            below, above = stats.log_e_value_below(changes, n, k0), stats.log_e_value_above(changes, n, k0)
            assert math.isfinite(below)
            assert math.isfinite(above)
            assert 0 <= stats.anytime_upper_bound(changes, n, 0.001) <= 1

    @pytest.mark.parametrize(("changes", "n"), [(1000, 100_000), (50_000, 100_000), (99_999, 100_000), (3, 64)])
    def test_small_rates_keep_their_precision(self, changes: int, n: int) -> None:
        """Far below the observed rate, where the beta function underflows, the e-value nears 1 / (2 changes + 1)."""
        assert stats.log_e_value_below(changes, n, 1e-24) == pytest.approx(-math.log(2 * changes + 1), rel=1e-9)


class TestRadius:
    """Between label-change rates and L2 radii."""

    def test_round_trip(self) -> None:
        """The rate at a radius certifies that radius."""
        for radius in (0.01, 0.1, 0.25, 1.0):
            rate = stats.label_change_rate_at(radius, 0.25)
            assert stats.certified_radius(rate, 0.25) == pytest.approx(radius)
        assert stats.label_change_rate_at(0.25, 0.25) == pytest.approx(0.158655, abs=1e-6)

    def test_nothing_certified(self) -> None:
        """A rate of one half or more certifies nothing."""
        assert [stats.certified_radius(rate, 1.0) for rate in (0.5, 0.7, 1.0)] == [0.0, 0.0, 0.0]

    def test_absurd_radius(self) -> None:
        """A radius of a hundred deviations has a rate above zero, that no number of copies proves."""
        k0 = stats.label_change_rate_at(100.0, 1.0)
        assert k0 > 0
        assert stats.log_e_value_below(0, 100_000, k0) == pytest.approx(0.0, abs=1e-6)


class TestConformal:
    """Conformal p-values and their thresholds."""

    BENIGN = np.array([1.0, 2.0, 2.0, 3.0])

    @pytest.mark.parametrize(
        ("score", "p_value"),
        [(0.0, 1.0), (1.0, 1.0), (1.5, 0.8), (2.0, 0.8), (2.5, 0.4), (3.0, 0.4), (3.1, 0.2), (math.inf, 0.2)],
    )
    def test_p_value(self, score: float, p_value: float) -> None:
        """The share of scores at least as high, the input's own included: ties count against suspicion."""
        assert stats.conformal_p_value(self.BENIGN, score) == pytest.approx(p_value)

    def test_no_benign_scores(self) -> None:
        """Without benign scores nothing is unusual."""
        assert stats.conformal_p_value(np.array([]), 5.0) == 1.0

    @pytest.mark.parametrize(
        ("rate", "confidence", "n"),
        [
            (0.05, 0.95, 59),
            (0.01, 0.95, 299),
            (0.5, 0.95, 5),
            (0.05, None, 19),
            (0.01, None, 99),
            (0.001, None, 999),
            (0.03, None, 33),
        ],
    )
    def test_samples_needed(self, rate: float, confidence: float | None, n: int) -> None:
        """The least calibration set for a rate, on average or with confidence: one fewer flags nothing."""
        assert stats.samples_needed(rate, confidence) == n
        assert stats.p_value_threshold(n, rate, confidence) == pytest.approx(1 / (n + 1))
        assert stats.p_value_threshold(n - 1, rate, confidence) == 0.0
        assert stats.least_rate(n, confidence) <= rate < stats.least_rate(n - 1, confidence)

    def test_no_samples_support_nothing(self) -> None:
        """Without benign samples no rate below one can be kept."""
        assert stats.least_rate(0) == stats.least_rate(0, 0.95) == 1.0
        assert stats.p_value_threshold(0, 0.5) == stats.p_value_threshold(0, 0.5, 0.95) == 0.0

    @pytest.mark.parametrize(("n", "flags"), [(99, 5), (100, 5), (118, 5), (119, 6), (1999, 100)])
    def test_threshold_on_average(self, n: int, flags: int) -> None:
        """On average the largest threshold is the rate rounded down to a p-value, however floats fall."""
        assert stats.p_value_threshold(n, 0.05) == flags / (n + 1)

    @pytest.mark.parametrize(("n", "threshold"), [(59, 1 / 60), (300, 9 / 301), (718, 35 / 719)])
    def test_true_rate_interval(self, n: int, threshold: float) -> None:
        """The true rate, given a threshold, has the distribution of a uniform order statistic."""
        k = round(threshold * (n + 1))
        low, high = stats.true_rate_interval(n, threshold)
        # P(k-th largest of n uniforms leaves more than r above it) = P(fewer than k of n lie above 1 - r).
        assert distributions.binom.cdf(k - 1, n, low) == pytest.approx(0.975)
        assert distributions.binom.cdf(k - 1, n, high) == pytest.approx(0.025)
        assert stats.true_rate_interval(n, 0.0) == (0.0, 0.0)

    @pytest.mark.parametrize("rate", [0.01, 0.05, 0.2])
    @pytest.mark.parametrize("confidence", [0.9, 0.95])
    def test_allowed_exceedances_is_the_largest(self, rate: float, confidence: float) -> None:
        """One exceedance more would break the confidence."""
        for n in (0, 1, 59, 300, 718, 5000):
            allowed = stats.allowed_exceedances(n, rate, confidence)
            below = distributions.binom.cdf([allowed, allowed + 1], n, rate)
            assert allowed == -1 or below[0] <= 1 - confidence
            assert below[1] > 1 - confidence
