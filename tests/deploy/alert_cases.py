"""When each alert fires and when it stays silent: a row each, as promtool's unit tests take them.

Series are `name{labels}: values`, one value a minute; `job` and `instance` are added. A row names the alert, the minute
at which it is looked at, and the labels that it fires with beside its own, or None where it is silent.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

DIGITS = {"job": "guard", "model": "digits"}
JOB = {"job": "guard"}


@dataclass(frozen=True)
class Case:
    """One look at one alert. `fires` are the labels that it fires with, once for each."""

    alert: str
    what: str
    series: dict[str, str]
    at_min: int
    fires: tuple[dict[str, str], ...] = ()
    labels: dict[str, str] = field(default_factory=lambda: {"job": "guard", "instance": "a:9011"})


def items(clean: str, adversarial: str) -> dict[str, str]:
    """Screened items by verdict."""
    name = "guard_items_total{model='digits',verdict="
    return {f"{name}'clean'}}": clean, f"{name}'adversarial'}}": adversarial}


def p_values(all_of_them: str, tail: str, calibration: int = 400) -> dict[str, str]:
    """The histogram that drift is read from."""
    name, labels = "guard_detector_pvalue_ratio", "model='digits',detector='combined'"
    return {
        f"{name}_count{{{labels}}}": all_of_them,
        f"{name}_bucket{{{labels},le='0.05'}}": tail,
        "guard_profile_calibration_samples{model='digits'}": f"{calibration}x400",
    }


def inferences(triton: str, **asked: str) -> dict[str, str]:
    """What Triton ran, and what Guard asked it for."""
    name = "guard_upstream_inferences_total{model='digits',sender="
    return {"nv_inference_request_success{model='digits',version='1'}": triton} | {
        f"{name}'{sender}'}}": values for sender, values in asked.items()
    }


def failures(requests: str, **counts: str) -> dict[str, str]:
    """Requests, and those that failed by reason; reasons of unscreened requests are marked by `unscreened_`."""
    found = {"guard_requests_total{model='digits',protocol='grpc',decision='forward'}": requests}
    series = {"guard_refused_requests_total{reason='overloaded'}": "0x400"}
    series["guard_unscreened_requests_total{model='digits',reason='fault'}"] = "0x400"
    for reason, values in counts.items():
        kind, _, why = reason.partition("_")
        labels = f"model='digits',reason='{why}'" if kind == "unscreened" else f"reason='{why}'"
        series[f"guard_{kind}_requests_total{{{labels}}}"] = values
    return found | series


def overhead(below_10_ms: str, below_50_ms: str) -> dict[str, str]:
    """The histogram of what Guard adds."""
    name = "guard_overhead_seconds_bucket{le="
    return {f"{name}'0.01'}}": below_10_ms, f"{name}'0.05'}}": below_50_ms, f"{name}'+Inf'}}": below_50_ms}


def concentrated(share: float, clean: str, adversarial: str) -> dict[str, str]:
    """Who is behind the detections, with the rate that the policy asks for."""
    return items(clean, adversarial) | {
        "guard_client_detections_top_share_ratio{model='digits'}": f"{share}x60",
        "guard_false_positive_rate_target{model='digits'}": "0.01x60",
    }


def mode(enforce: str) -> dict[str, str]:
    """Whether a model is enforced."""
    return {"guard_policy_mode{model='digits',mode='enforce'}": enforce}


def suspected(scope: str) -> dict[str, str]:
    """Guard's own test for drift."""
    return {f"guard_drift_suspected{{model='digits',scope='{scope}'}}": "1x400"}


def evidence(outcome: str, values: str) -> dict[str, str]:
    """What became of records of the audit log."""
    name = "guard_audit_events_total{sink='log',outcome="
    return {f"{name}'written'}}": "0+100x60", f"{name}'{outcome}'}}": values}


FAST, SLOW = JOB | {"burn": "fast", "severity": "critical"}, JOB | {"burn": "slow", "severity": "warning"}
SELF = {"guard_selftest_last_success_timestamp_seconds{model='digits'}": "0+60x20 1200x30"}
ATTACK = items("0+99x30 3000+50x40", "0+1x30 80+50x40")
LATE = items("0+99x120 11972+92x20", "0+1x120 128+8x20")
BURST = items("0+99x30 3000+50x10 3600+99x60", "0+1x30 80+50x10 581+1x60")
AT_A = DIGITS | {"instance": "a:9011"}

CASES = [
    Case("GuardAttackSuspected", "half of the inputs, for minutes", ATTACK, 36, (DIGITS,)),
    Case("GuardAttackSuspected", "before the attack", ATTACK, 29),
    Case("GuardAttackSuspected", "8 % before it is known what is usual", items("0+92x60", "0+8x60"), 40),
    Case("GuardAttackSuspected", "8 % where 1 % was usual", LATE, 130, (DIGITS,)),
    Case("GuardAttackSuspected", "not for two minutes yet", ATTACK, 32),
    Case("GuardAttackSuspected", "what is usual", items("0+96x120", "0+4x120"), 100),
    Case("GuardAttackSuspected", "few inputs", items("0+7x60", "0+3x60"), 40),
    Case("GuardAttackSuspected", "a long attack is not learnt", items("0+50x200", "0+50x200"), 180, (DIGITS,)),
    Case("GuardAttackSuspected", "a while after the last", BURST, 55, (DIGITS,)),
    Case("GuardAttackSuspected", "long after it", BURST, 75),
    Case("GuardAttackSustained", "an hour", items("0+99x30 3000+50x70", "0+1x30 80+50x70"), 95, (DIGITS,)),
    Case("GuardAttackSustained", "an attack that is over", BURST, 55),
    Case("GuardAttackSustained", "few inputs", items("0+1x70", "0+1x70"), 65),
    Case("GuardClientConcentration", "one of several", concentrated(0.8, "0+90x60", "0+10x60"), 30, (DIGITS,)),
    Case("GuardClientConcentration", "everybody alike", concentrated(0.2, "0+90x60", "0+10x60"), 30),
    Case("GuardClientConcentration", "one client, ordinary", concentrated(1.0, "0+990x60", "0+10x60"), 30),
    Case("GuardClientConcentration", "few inputs", concentrated(1.0, "0+1x60", "0+1x60"), 30),
    Case("GuardQueryAttack", "a client", {"guard_query_attack_clients{model='digits'}": "0x5 1x20"}, 15, (DIGITS,)),
    Case("GuardQueryAttack", "nobody", {"guard_query_attack_clients{model='digits'}": "0x20"}, 15),
    Case("GuardScoreDrift", "four times the tail", p_values("0+100x400", "0+20x400"), 300, (DIGITS,)),
    Case("GuardScoreDrift", "no tail", p_values("0+100x400", "0x400", 10_000), 300, (DIGITS,)),
    Case("GuardScoreDrift", "as calibration's own draw", p_values("0+100x400", "0+8x400"), 300),
    Case("GuardScoreDrift", "few inputs", p_values("0+5x400", "0+5x400"), 300),
    Case("GuardScoreDrift", "not for three hours yet", p_values("0+100x400", "0+20x400"), 150),
    Case("GuardScoreDrift", "Guard's own test", suspected("several_clients"), 300, (DIGITS,)),
    Case("GuardScoreDrift", "one client's", suspected("one_client"), 300),
    Case("GuardUnscreenedTraffic", "some", failures("0+99x60", unscreened_fault="0+1x60"), 30, (DIGITS,)),
    Case("GuardUnscreenedTraffic", "one request", failures("0+99x60", unscreened_fault="0x10 1x50"), 15),
    Case("GuardUnscreenedTraffic", "as policy says", failures("0+9x60", unscreened_unlisted_model="0+9x60"), 30),
    Case("GuardBypassSuspected", "twice as many", inferences("0+200x60", call="0+100x60"), 40, ({"model": "digits"},)),
    Case(
        "GuardBypassSuspected",
        "a little, of one version",
        {
            "nv_inference_request_success{model='digits',version='2'}": "0+103x60",
            "guard_upstream_inferences_total{model='digits@2',sender='call'}": "0+100x60",
        },
        40,
    ),
    Case(
        "GuardBypassSuspected",
        "all of it Guard's",
        inferences("0+100x60", call="0+60x60", stream="0+30x60", guard="0+10x60"),
        40,
    ),
    Case("GuardBypassSuspected", "a Triton without Guard", inferences("0+100x60"), 40),
    Case("GuardNotEnforcing", "changed", mode("1x30 0x30"), 45, (DIGITS,)),
    Case(
        "GuardNotEnforcing",
        "one replica",
        mode("1x60") | {"guard_policy_mode{model='digits',mode='enforce',instance='b:9011'}": "0x60"},
        45,
        (DIGITS,),
    ),
    Case("GuardNotEnforcing", "never was", mode("0x60"), 45),
    Case("GuardSelfTestFailing", "since twenty minutes", SELF, 45, (AT_A,)),
    Case("GuardSelfTestFailing", "a minute ago", SELF, 21),
    Case("GuardSelfTestFailing", "a little late", SELF, 28),
    Case("GuardAuditLoss", "a full disk", evidence("failed", "0x20 1+1x40"), 25, (JOB | {"sink": "log"},)),
    Case("GuardAuditLoss", "a queue that overran", evidence("dropped", "0x20 5x40"), 25, (JOB | {"sink": "log"},)),
    Case("GuardAuditLoss", "left out on purpose", evidence("sampled_out", "0+50x60"), 25),
    Case("GuardErrorBudgetBurn", "2 %", failures("0+1000x400", unscreened_fault="0+20x400"), 390, (FAST, SLOW)),
    Case("GuardErrorBudgetBurn", "1 %", failures("0+1000x400", refused_overloaded="0+10x400"), 390, (SLOW,)),
    Case("GuardErrorBudgetBurn", "0.5 %", failures("0+1000x400", unscreened_fault="0+5x400"), 390),
    Case("GuardErrorBudgetBurn", "it is over", failures("0+1000x400", unscreened_fault="0+20x100 2000x300"), 180),
    Case("GuardErrorBudgetBurn", "clients' own", failures("0+1000x400", refused_malformed_request="0+99x400"), 390),
    Case("GuardOverheadHigh", "40 ms", overhead("0+10x60", "0+100x60"), 40, (JOB,)),
    Case("GuardOverheadHigh", "under 10 ms", overhead("0+100x60", "0+100x60"), 40),
    Case("GuardOverheadHigh", "no requests", overhead("0x60", "0x60"), 40),
    Case(
        "GuardDown", "a replica", {"up": "1x10 0x20", "guard_build_info": "1x40"}, 20, (JOB | {"instance": "a:9011"},)
    ),
    Case("GuardDown", "there is none", {"other": "1x40"}, 20, ({},)),
    Case("GuardDown", "all is well", {"up": "1x40", "guard_build_info": "1x40"}, 20),
    Case("GuardDown", "somebody else is down", {"up{job='web'}": "0x40", "guard_build_info": "1x40"}, 20),
]


def as_promtool(case: Case, own_labels: dict[str, str]) -> dict[str, Any]:
    """A case as one of promtool's tests. Labels that tell rules of one name apart are the case's."""
    return {
        "name": f"{case.alert}: {case.what}",
        "interval": "1m",
        "input_series": [
            {"series": _with(series, case.labels), "values": values} for series, values in case.series.items()
        ],
        "alert_rule_test": [
            {
                "eval_time": f"{case.at_min}m",
                "alertname": case.alert,
                "exp_alerts": [{"exp_labels": own_labels | labels} for labels in case.fires],
            }
        ],
    }


def _with(series: str, labels: dict[str, str]) -> str:
    name, _, given = series.partition("{")
    more = [f"{label}='{value}'" for label, value in labels.items() if f"{label}=" not in given]
    return f"{name}{{{','.join([*filter(None, [given.rstrip('}')]), *more])}}}"
