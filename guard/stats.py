"""Statistics as pure functions: sequential tests, confidence bounds, conformal p-values.

Everything Guard claims rests on this page. Each function names its source, and tests/test_stats.py checks the
claims by simulation.
"""

from __future__ import annotations

import math
import sys
from enum import Enum
from typing import overload

import numpy as np
import numpy.typing as npt
from scipy import special

from guard.values import Float64Array, IntArray

_ROUNDING = 1e-9
"""So that 0.05 * 100 counts as 5."""


class Sprt(Enum):
    """Where Wald's test stands."""

    UNDECIDED = 0
    STABLE = 1
    SENSITIVE = 2


@overload
def wald_log_likelihood_ratio(changes: int, n: int, p0: float, p1: float) -> float: ...
@overload
def wald_log_likelihood_ratio(changes: IntArray, n: IntArray, p0: float, p1: float) -> Float64Array: ...
def wald_log_likelihood_ratio(
    changes: int | IntArray, n: int | IntArray, p0: float, p1: float
) -> float | npt.NDArray[np.floating]:
    """Log-likelihood ratio of label-change rate p1 against p0 after `changes` in `n` copies (Wald, 1945)."""
    return changes * math.log(p1 / p0) + (n - changes) * math.log((1 - p1) / (1 - p0))


def wald_decision(changes: int, n: int, *, p0: float, p1: float, alpha: float, beta: float) -> Sprt:
    """Wald's sequential probability ratio test of kappa <= p0 against kappa >= p1, both boundaries looked at.

    `alpha` is the chance to call a stable input sensitive, `beta` to call a sensitive one stable: approximately, and
    at most alpha / (1 - beta) and beta / (1 - alpha). Both get smaller the more copies come between two looks.
    """
    ratio = wald_log_likelihood_ratio(changes, n, p0, p1)
    if ratio >= math.log((1 - beta) / alpha):
        return Sprt.SENSITIVE
    if ratio <= math.log(beta / (1 - alpha)):
        return Sprt.STABLE
    return Sprt.UNDECIDED


def clopper_pearson_lower(successes: int, n: int, alpha: float) -> float:
    """Lower bound of a binomial proportion holding with probability >= 1 - alpha (Clopper and Pearson, 1934)."""
    return 0.0 if successes == 0 else float(special.betaincinv(successes, n - successes + 1, alpha))


def clopper_pearson_upper(successes: int, n: int, alpha: float) -> float:
    """Upper bound of a binomial proportion holding with probability >= 1 - alpha (Clopper and Pearson, 1934)."""
    return float(clopper_pearson_uppers(np.array([successes]), n, alpha)[0])


def clopper_pearson_uppers(successes: IntArray, n: int, alpha: float) -> Float64Array:
    """`clopper_pearson_upper` of each count."""
    inside = np.minimum(successes, n - 1)
    return np.where(successes >= n, 1.0, special.betaincinv(inside + 1, n - inside, 1 - alpha))


def clopper_pearson_interval(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Two-sided exact interval of a binomial proportion; (0, 1) when nothing was observed."""
    if n == 0:
        return 0.0, 1.0
    tail = (1 - confidence) / 2
    return clopper_pearson_lower(successes, n, tail), clopper_pearson_upper(successes, n, tail)


def log_e_value_below(changes: int, n: int, k0: float) -> float:
    """Log of the evidence that kappa < k0, as an e-process for the hypothesis kappa >= k0.

    A likelihood ratio against k0, mixed over alternatives in (0, k0) by a Jeffreys prior: the one-sided
    Krichevsky-Trofimov mixture. It is a supermartingale whatever kappa >= k0, so by Ville's inequality it exceeds
    1/alpha at *any* time with probability at most alpha (Ramdas et al., 2023, sections 3 and 4).
    """
    return float(log_e_values_below(np.array([changes]), np.array([n]), k0)[0])


def log_e_values_below(changes: IntArray, n: IntArray, k0: float) -> Float64Array:
    """`log_e_value_below` of each pair."""
    return _log_mixture_ratio(changes, n - changes, k0, 1 - k0)


def log_e_value_above(changes: int, n: int, k0: float) -> float:
    """Log of the evidence that kappa > k0: the mirror image of `log_e_value_below`."""
    return float(log_e_values_above(np.array([changes]), np.array([n]), k0)[0])


def log_e_values_above(changes: IntArray, n: IntArray, k0: float) -> Float64Array:
    """`log_e_value_above` of each pair."""
    return _log_mixture_ratio(n - changes, changes, 1 - k0, k0)


def anytime_upper_bound(changes: int, n: int, alpha: float) -> float:
    """Upper confidence limit of kappa that holds at every n at once with probability >= 1 - alpha.

    The confidence sequence dual to `log_e_value_below`: the least k0 whose hypothesis kappa >= k0 is rejected,
    found by bisection and rounded up. 1.0 when nothing is rejected.
    """
    threshold = -math.log(alpha)
    low, high = (changes / n if n else 1.0), 1.0
    if n == 0 or log_e_value_below(changes, n, 1 - 1e-9) < threshold:
        return 1.0
    for _ in range(40):
        middle = (low + high) / 2
        if 0 < middle < 1 and log_e_value_below(changes, n, middle) >= threshold:
            high = middle
        else:
            low = middle
    return high


def copies_to_certify(k0: float, alpha: float) -> int:
    """Fewest copies, none of them changed, after which `log_e_value_below` proves kappa < k0."""
    threshold = -math.log(alpha)
    high = 1
    while log_e_value_below(0, high, k0) < threshold:
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if log_e_value_below(0, middle, k0) < threshold else (low, middle)
    return high


def certified_radius(kappa_upper: float, sigma: float) -> float:
    """L2 radius sigma * Phi^-1(1 - kappa) within which the smoothed label can't change (Cohen et al., 2019, Th. 1).

    Zero where the bound on the label-change rate does not exclude one half.
    """
    return 0.0 if kappa_upper >= 0.5 else sigma * float(special.ndtri(1 - kappa_upper))  # noqa: PLR2004 - one half


def label_change_rate_at(radius: float, sigma: float) -> float:
    """The label-change rate k0 below which the L2 radius is certified: 1 - Phi(radius / sigma), never quite zero."""
    return max(float(special.ndtr(-radius / sigma)), sys.float_info.min)


def conformal_p_value(benign: Float64Array, score: float) -> float:
    """P-value (1 + #{benign >= score}) / (n + 1) of a score against sorted benign scores (Vovk et al., 2005)."""
    at_least = len(benign) - int(np.searchsorted(benign, score, side="left"))
    return (1 + at_least) / (len(benign) + 1)


def ties(benign: Float64Array, score: float) -> int:
    """How many of the sorted benign scores are the same as a score."""
    low, high = np.searchsorted(benign, score, side="left"), np.searchsorted(benign, score, side="right")
    return int(high - low)


def allowed_exceedances(n: int, rate: float, confidence: float = 0.95) -> int:
    """Largest k so that flagging scores above all but k of n benign ones keeps the rate, or -1 if n is too small.

    The rate then holds with probability >= `confidence` over the draw of the n samples: the chance that k or fewer of
    n exceed a threshold whose true exceedance rate is `rate` is at most 1 - confidence (Vovk, 2012, Prop. 2a).
    """
    chances = special.bdtr(np.arange(n + 1), n, rate)
    return int(np.searchsorted(chances, 1 - confidence, side="right")) - 1


def samples_needed(rate: float, confidence: float | None = None) -> int:
    """Fewest benign samples with which `rate` can be kept, on average or with `confidence` (see p_value_threshold)."""
    if confidence is None:
        return math.ceil(1 / rate - 1 - _ROUNDING)
    return math.ceil(math.log(1 - confidence) / math.log1p(-rate))


def least_rate(n: int, confidence: float | None = None) -> float:
    """The smallest rate that `n` benign samples support: the inverse of `samples_needed`."""
    if n == 0:
        return 1.0
    return 1 / (n + 1) if confidence is None else 1 - (1 - confidence) ** (1 / n)


def p_value_threshold(n: int, rate: float, confidence: float | None = None) -> float:
    """The conformal p-value at or below which an input is flagged, for `n` benign scores.

    Without `confidence` the rate holds on average over the draw of the n samples (split conformal prediction, Vovk et
    al., 2005); with it, it holds in that share of all draws. Zero (nothing is ever flagged) where `n` can't support the
    rate: callers refuse that earlier.
    """
    if confidence is None:
        return math.floor(rate * (n + 1) + _ROUNDING) / (n + 1)
    return (allowed_exceedances(n, rate, confidence) + 1) / (n + 1)


def true_rate_interval(n: int, threshold: float, confidence: float = 0.95) -> tuple[float, float]:
    """Where the true false-positive rate lies with `confidence`, given n benign scores and a p-value threshold.

    It is the rate at which fresh benign scores exceed the k-th largest of n, which is Beta(k, n + 1 - k) distributed.
    """
    k = round(threshold * (n + 1))
    if k == 0:
        return 0.0, 0.0
    tail = (1 - confidence) / 2
    low, high = special.betaincinv(k, n + 1 - k, [tail, 1 - tail])
    return float(low), float(high)


def _log_mixture_ratio(changes: IntArray, others: IntArray, k0: float, rest: float) -> Float64Array:
    """Log-likelihood ratio of the Jeffreys mixture over (0, k0) against k0; `rest` is 1 - k0, exact where k0 is not."""
    half = np.array([0.5])
    a, b = changes.astype(np.float64), others.astype(np.float64)
    mixture = _log_incomplete_beta(a + 0.5, b + 0.5, k0, rest) - _log_incomplete_beta(half, half, k0, rest)
    ratio: Float64Array = mixture - a * math.log(k0) - b * math.log(rest)
    return ratio


def _log_incomplete_beta(a: Float64Array, b: Float64Array, x: float, rest: float) -> Float64Array:
    """Log of the unregularised incomplete beta function B(x; a, b), also where it underflows; `rest` is 1 - x."""
    regularised = special.betainc(a, b, x)
    tiny = regularised <= 1e-250  # noqa: PLR2004 - above it scipy has full relative precision
    logs: Float64Array = np.log(np.where(tiny, 1.0, regularised)) + special.betaln(a, b)
    logs[tiny] = _log_incomplete_beta_series(a[tiny], b[tiny], x, rest)
    return logs


def _log_incomplete_beta_series(a: Float64Array, b: Float64Array, x: float, rest: float) -> Float64Array:
    """The same as B(x; a, b) = x^a (1 - x)^b / a * 2F1(a + b, 1; a + 1; x), where x is far below the mean.

    A series of positive terms that shrink from the first on; scipy's own hyp2f1 overflows here.
    """
    series, term = np.ones_like(a), np.ones_like(a)
    k = 0
    while bool((term > sys.float_info.epsilon * series).any()):
        term *= (a + b + k) / (a + 1 + k) * x
        series += term
        k += 1
    return a * math.log(x) + b * math.log(rest) - np.log(a) + np.log(series)
