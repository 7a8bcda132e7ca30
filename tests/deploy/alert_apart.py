"""Alerts where one Prometheus reads several namespaces: each deployment counts for itself."""

from __future__ import annotations

from tests.deploy.alert_case import Case
from tests.deploy.alert_series import (
    ASKED,
    CERTIFICATE,
    ENFORCED_IN_PART,
    IN_HASTE,
    LATE,
    LONG,
    MANY_ASKED,
    QUIET,
    UNSUSPECTED,
    UNWATCHED,
    USUAL,
    Series,
    apart,
    concentrated,
    evidence,
    failures,
    in_bursts,
    inferences,
    items,
    of_each_reason,
    overhead,
    p_values,
    suspected,
)

_DIGITS = {"job": "guard", "model": "digits"}
_FAST, _SLOW = {"burn": "fast", "severity": "critical"}, {"burn": "slow", "severity": "warning"}


def _in_one(
    alert: str,
    what: str,
    bad: Series,
    good: Series,
    at_min: int,
    *more: dict[str, str],
    labels: dict[str, str] = _DIGITS,
) -> Case:
    """It fires in namespace a, and not in b. `more` are its further labels, once for each time that it fires."""
    fires = tuple(labels | {"namespace": "a"} | each for each in more or ({},))
    return Case(alert, f"{what}, in one namespace", apart(a=bad, b=good), at_min, fires)


APART = [
    _in_one(
        "GuardCertificateEnding",
        "it ended",
        {CERTIFICATE: "3600x100"},
        {CERTIFICATE: "999999x100"},
        70,
        labels={"job": "guard", "file": "server.crt", "instance": "a:9011"},
    ),
    _in_one(
        "GuardBypassUnwatched",
        "Triton's counts are gone",
        UNWATCHED,
        inferences("0+100x60", call="0+100x60"),
        40,
        labels={"model": "digits"},
    ),
    _in_one("GuardAttackSuspected", "8 % where 1 % was usual", LATE, USUAL, 130),
    _in_one("GuardAttackSustained", "an hour", LONG, USUAL, 205),
    _in_one(
        "GuardClientConcentration",
        "one of several",
        concentrated(0.8, "0+90x60", "0+10x60"),
        concentrated(0.2, "0+90x60", "0+90x60"),
        30,
    ),
    _in_one("GuardQueryAttack", "a client", ASKED, QUIET, 15),
    Case(
        "GuardQueryAttack",
        "many clients in one namespace, and one in another",
        apart(a=MANY_ASKED, b=MANY_ASKED | ASKED),
        15,
        (_DIGITS | {"namespace": "a", "clients": "many", "severity": "warning"}, _DIGITS | {"namespace": "b"}),
    ),
    _in_one("GuardAttackSustained", "few inputs", items("0x300", "0+1x300"), items("0+1x300", "0x300"), 250),
    _in_one(
        "GuardUnscreenedTraffic",
        "a fifth of few",
        failures("0+1x100", unscreened_fault="0+0.3x100"),
        failures("0+1x100"),
        95,
        {"cause": "guard", "severity": "critical"},
    ),
    _in_one(
        "GuardUnscreenedTraffic",
        "a burst of clients' own",
        failures("0+100x100", unscreened_invalid_input="0x30 0+60x8 480x70"),
        failures("0+100x100"),
        80,
        {"cause": "clients", "severity": "warning"},
    ),
    _in_one(
        "GuardBypassSuspected",
        "bursts",
        inferences(in_bursts(100, 400), call="0+100x120"),
        inferences("0+100x120", call="0+100x120"),
        115,
        labels={"model": "digits"},
    ),
    _in_one("GuardScoreDrift", "Guard's own test", suspected("several_clients"), UNSUSPECTED, 300),
    _in_one(
        "GuardScoreDrift",
        "four times the tail",
        p_values("0+100x400", "0+20x400"),
        p_values("0+100x400", "0+5x400"),
        300,
    ),
    _in_one(
        "GuardUnscreenedTraffic",
        "some",
        failures("0+999x60", unscreened_fault="0+2x60"),
        failures("0+999x60"),
        30,
        {"cause": "guard", "severity": "critical"},
    ),
    _in_one(
        "GuardUnscreenedTraffic",
        "clients leave no time",
        IN_HASTE,
        failures("0+1000x60"),
        30,
        {"cause": "clients", "severity": "warning"},
    ),
    _in_one(
        "GuardBypassSuspected",
        "twice as many",
        inferences("0+200x60", call="0+100x60"),
        inferences("0+100x60", call="0+100x60"),
        40,
        labels={"model": "digits"},
    ),
    Case(
        "GuardNotEnforcing",
        "in three namespaces of five",
        ENFORCED_IN_PART,
        45,
        tuple(_DIGITS | {"namespace": name} for name in "abc"),
    ),
    _in_one(
        "GuardAuditLoss",
        "a full disk",
        evidence("failed", "0x20 1+1x40"),
        evidence("failed", "0x60"),
        25,
        labels={"job": "guard", "sink": "log"},
    ),
    _in_one(
        "GuardErrorBudgetBurn",
        "1.5 %",
        of_each_reason("0+10000x60", "0+15x60"),
        of_each_reason("0+10000x60", "0x60"),
        60,
        _FAST,
        _SLOW,
        labels={"job": "guard"},
    ),
    _in_one(
        "GuardOverheadHigh",
        "40 ms",
        overhead("0+10x60", "0+100x60"),
        overhead("0+100x60", "0+100x60"),
        40,
        labels={"job": "guard"},
    ),
]
