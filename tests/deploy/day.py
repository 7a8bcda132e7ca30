"""A day of a guarded model, minute by minute, as Prometheus would read it: with the chance that is in it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tests.deploy.alert_series import Series

MINUTES: Final = 840
"""Until two in the afternoon."""

SIX: Final = 360
"""Six in the morning."""

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]

_SCREENING = ("deadline", "overload", "fault", "unverified", "client_deadline", "invalid_input", "other_shape")
_MODEL = "model='digits'"


@dataclass(frozen=True)
class Day:
    """What is sent to one model, and what becomes of it.

    Each is one number for the day, or one for each minute, (840,): `sent` are honest requests, each of one item, and
    `attack` more of an attacker's, of which nine in ten are found. `flagged` is the share of honest ones that is found
    adversarial, `tail` that of p-values up to 0.05. `share` is what the client with most of the detections has of
    them. `unscreened` counts by reason. `round` went to Triton without Guard, `refused` through Guard for nothing.
    """

    sent: ArrayLike = 300
    asked: float = 0.01
    flagged: ArrayLike = 0.008
    tail: ArrayLike = 0.04
    attack: ArrayLike = 0
    share: ArrayLike = 0.2
    probing: ArrayLike = 0
    unscreened: dict[str, ArrayLike] = field(default_factory=dict)
    round: ArrayLike = 0
    refused: ArrayLike = 0
    sender: str = "call"
    enforced: ArrayLike = 1
    triton: ArrayLike = 1
    began: int = 0
    """The minute in which this Guard started: before it there is nothing of it."""
    ended: int = MINUTES
    longer: int = 0
    """Minutes that Triton is read longer than this Guard."""
    loads: int = 0
    """Minutes that it took from there until it could be read."""
    instance: str = "a:9011"


def series(day: Day, seed: int = 0) -> Series:
    """What Prometheus reads of it, and of the Triton behind."""
    rng = np.random.default_rng(seed)
    unscreened = {why: rng.poisson(_daily(day.unscreened.get(why, 0))) for why in _SCREENING}
    honest, attack = rng.poisson(_daily(day.sent)), rng.poisson(_daily(day.attack))
    found = rng.binomial(honest, _daily(day.flagged)) + rng.binomial(attack, 0.9)
    screened = honest + attack
    small = np.maximum(rng.binomial(screened, _daily(day.tail)), found)
    unseen = sum(unscreened.values(), np.zeros(MINUTES, np.int64))
    refused, around = rng.poisson(_daily(day.refused)), rng.poisson(_daily(day.round))
    ran = screened + unseen + around
    guards = (
        _items(day, screened - found, found, unseen)
        | _p_values(day, screened, small)
        | {
            f"guard_requests_total{{{_MODEL},protocol='grpc',decision='forward'}}": _total(screened + unseen, day),
            f"guard_upstream_inferences_total{{{_MODEL},sender='{day.sender}',outcome='{_outcome(day)}'}}": _total(
                screened + unseen, day
            ),
            f"guard_upstream_inferences_total{{{_MODEL},sender='{day.sender}',outcome='failed'}}": _total(refused, day),
        }
        | {
            f"guard_unscreened_requests_total{{{_MODEL},reason='{why}'}}": _total(counts, day)
            for why, counts in unscreened.items()
        }
        | _state(day)
    )
    lives = _lives(replace(day, ended=day.ended + day.longer))
    counts = _present(np.cumsum(ran * lives), lives & (_daily(day.triton) > 0))
    tritons = {f"nv_inference_request_success{{{_MODEL},version='1'}}": counts}
    return _at(f"job='guard',namespace='a',deployment='digits',instance='{day.instance}'", guards) | _at(
        f"job='triton',namespace='a',instance='{day.instance}'", tritons
    )


def _outcome(day: Day) -> str:
    """What Envoy carries may have run."""
    return "unknown" if day.sender == "carried" else "answered"


def _items(day: Day, clean: Counts, found: Counts, unseen: Counts) -> Series:
    by_verdict = {"clean": clean, "adversarial": found, "unscreened": unseen}
    return {
        f"guard_items_total{{{_MODEL},verdict='{verdict}'}}": _total(counts, day)
        for verdict, counts in by_verdict.items()
    } | {
        f"guard_false_positive_rate_target{{{_MODEL}}}": _level(day.asked, day),
        f"guard_client_detections_top_share_ratio{{{_MODEL}}}": _level(day.share, day),
        f"guard_query_attack_clients{{{_MODEL}}}": _level(day.probing, day),
    }


def _p_values(day: Day, screened: Counts, small: Counts) -> Series:
    name = f"guard_detector_pvalue_ratio_{{}}{{{{{_MODEL},detector='combined'{{}}}}}}"
    return {
        name.format("count", ""): _total(screened, day),
        name.format("bucket", ",le='0.05'"): _total(small, day),
        f"guard_profile_calibration_samples{{{_MODEL}}}": _level(1000, day),
        f"guard_drift_suspected{{{_MODEL},scope='several_clients'}}": _level(0, day),
    }


def _state(day: Day) -> Series:
    """What is as it should be, all day."""
    tested = np.arange(MINUTES) * 60.0
    refused = {f"guard_refused_requests_total{{reason='{why}'}}": _level(0, day) for why in ("internal", "overloaded")}
    read = np.where(np.arange(MINUTES) >= day.began + day.loads, 1, 0)
    return refused | {
        "up{}": _present(read, _lives(day, loaded=False)),
        "guard_build_info{version='1'}": _level(1, day),
        f"guard_policy_mode{{{_MODEL},mode='enforce'}}": _level(day.enforced, day),
        f"guard_selftest_last_success_timestamp_seconds{{{_MODEL}}}": _level(tested, day),
        f"guard_selftest_interval_seconds{{{_MODEL}}}": _level(300, day),
        "guard_overhead_seconds_bucket{le='0.01'}": _total(np.full(MINUTES, 100), day),
        "guard_overhead_seconds_bucket{le='+Inf'}": _total(np.full(MINUTES, 100), day),
        "guard_audit_events_total{sink='log',outcome='failed'}": _level(0, day),
        "guard_config_last_reload_successful{}": _level(1, day),
        "guard_credentials_stale{section='listen'}": _level(0, day),
        "guard_tls_cert_expiry_timestamp_seconds{file='server.crt'}": _level(40 * 86400, day),
    }


def minutes(begin: int, end: int, value: float, otherwise: float = 0.0) -> Floats:
    """A value in the minutes from `begin` until `end`, and another before and after, (840,)."""
    day = np.full(MINUTES, otherwise)
    day[begin:end] = value
    return day


def tide(least: float, most: float) -> Floats:
    """Least at four in the morning and most at four in the afternoon, (840,)."""
    return least + (most - least) * (1 - np.cos(2 * np.pi * (np.arange(MINUTES) - 240) / 1440)) / 2


def _daily(value: ArrayLike) -> Floats:
    return np.broadcast_to(np.asarray(value, np.float64), MINUTES)


def _lives(day: Day, *, loaded: bool = True) -> NDArray[np.bool_]:
    minute = np.arange(MINUTES)
    return (minute >= day.began + (day.loads if loaded else 0)) & (minute < day.ended)


def _level(value: ArrayLike, day: Day) -> str:
    return _present(_daily(value), _lives(day))


def _total(counts: Counts, day: Day) -> str:
    """A counter of these, that begins at 0 when Guard does."""
    return _present(np.cumsum(counts * _lives(day)), _lives(day))


def _present(values: ArrayLike, there: NDArray[np.bool_]) -> str:
    """As promtool takes it: nothing before it is there, and `stale` when it goes."""
    words, before = [], False
    for value, now in zip(np.asarray(values), there, strict=True):
        words.append(f"{value:g}" if now else "stale" if before else "_")
        before = bool(now)
    return " ".join(words)


def _at(labels: str, given: Series) -> Series:
    return {
        f"{name}{{{','.join(filter(None, [inner.rstrip('}'), labels]))}}}": values
        for (name, _, inner), values in ((key.partition("{"), values) for key, values in given.items())
    }
