"""What Guard, Triton and Prometheus export, as promtool takes it: `name{labels}` and its values, one a minute."""

from __future__ import annotations

from itertools import accumulate

SCREENING = ("deadline", "overload", "fault", "unverified")
OWN = ("internal", "overloaded", "engine_stopped", "screening", "backend", "backend_timeout")

Series = dict[str, str]


def items(clean: str, adversarial: str, unscreened: str = "0x400", *, rate: float = 0.01) -> Series:
    """Items by verdict, where the policy lets Guard flag that share of honest ones."""
    name = "guard_items_total{model='digits',verdict="
    given = {"clean": clean, "adversarial": adversarial, "unscreened": unscreened}
    return {f"{name}'{verdict}'}}": values for verdict, values in given.items()} | {
        "guard_false_positive_rate_target{model='digits'}": f"{rate}x1500"
    }


def p_values(all_of_them: str, tail: str, calibration: int = 400, others: str = "0x400") -> Series:
    """The histogram that drift is read from. `others`: p-values of one detector alone, all of them small."""
    name, labels = "guard_detector_pvalue_ratio", "model='digits',detector='combined'"
    of_one = "model='digits',detector='network'"
    return {
        f"{name}_count{{{labels}}}": all_of_them,
        f"{name}_bucket{{{labels},le='0.05'}}": tail,
        f"{name}_bucket{{{labels},le='1.0'}}": all_of_them,
        f"{name}_count{{{of_one}}}": others,
        f"{name}_bucket{{{of_one},le='0.05'}}": others,
        "guard_profile_calibration_samples{model='digits'}": f"{calibration}x400",
    }


def inferences(triton: str, model: str = "digits", *, failed: str = "0x400", **asked: str) -> Series:
    """What Triton ran, and what Guard asked it for, by sender; and what of that Triton refused."""
    name = f"guard_upstream_inferences_total{{model='{model}',outcome="
    return {
        f"nv_inference_request_success{{model='{model.partition('@')[0]}',version='1'}}": triton,
        f"{name}'failed',sender='call'}}": failed,
    } | {
        f"{name}'{'unknown' if sender == 'carried' else 'answered'}',sender='{sender}'}}": values
        for sender, values in asked.items()
    }


def failures(requests: str, **counts: str) -> Series:
    """Requests, and those that failed by reason; reasons of unscreened requests are marked by `unscreened_`."""
    found = {"guard_requests_total{model='digits',protocol='grpc',decision='forward'}": requests}
    series = {"guard_refused_requests_total{reason='overloaded'}": "0x400"}
    series["guard_unscreened_requests_total{model='digits',reason='fault'}"] = "0x400"
    for reason, values in counts.items():
        kind, _, why = reason.partition("_")
        labels = f"model='digits',reason='{why}'" if kind == "unscreened" else f"reason='{why}'"
        series[f"guard_{kind}_requests_total{{{labels}}}"] = values
    return found | series


def of_each_reason(requests: str, each: str, **more: str) -> Series:
    """As many failures of each reason that is Guard's own."""
    counts = {f"unscreened_{why}": each for why in SCREENING} | {f"refused_{why}": each for why in OWN}
    return failures(requests, **counts, **more)


def limit(seconds: float, labels: str) -> Series:
    """What somebody else's copy of the rules says of what Guard may add."""
    return {f"guard:overhead_seconds:limit{{job='',instance='',{labels}}}": f"{seconds}x60"}


def overhead(below_10_ms: str, below_50_ms: str) -> Series:
    """The histogram of what Guard adds."""
    name = "guard_overhead_seconds_bucket{le="
    return {f"{name}'0.01'}}": below_10_ms, f"{name}'0.05'}}": below_50_ms, f"{name}'+Inf'}}": below_50_ms}


def concentrated(share: float, clean: str, adversarial: str, unscreened: str = "0x60") -> Series:
    """Who is behind the detections, with the rate that the policy asks for."""
    return items(clean, adversarial, unscreened) | {
        "guard_client_detections_top_share_ratio{model='digits'}": f"{share}x200",
    }


def counted(*each: float) -> str:
    """A counter that grows by these, one a minute."""
    return " ".join(f"{total:g}" for total in accumulate(each))


def in_bursts(always: float, burst: float) -> str:
    """A counter that grows by so much each minute, and in one of twenty by a burst: two hours of it."""
    return counted(*(always + burst * (minute % 20 == 10) for minute in range(120)))


def at(instance: str, series: Series) -> Series:
    """The same of another replica."""
    return labelled("instance", instance, series)


def labelled(label: str, value: str, series: Series) -> Series:
    """The same with one label more."""
    return {name.replace("{", f"{{{label}='{value}',"): values for name, values in series.items()}


def apart(**by_namespace: Series) -> Series:
    """What there is in several namespaces."""
    found = [labelled("namespace", name, series) for name, series in by_namespace.items()]
    return dict(pair for series in found for pair in series.items())


def mode(enforce: str, other: str = "0x60", lives: str = "1x60") -> Series:
    """Whether a model is enforced, or in another mode, by a Guard that lives."""
    name = "guard_policy_mode{model='digits',mode="
    return {f"{name}'enforce'}}": enforce, f"{name}'flag'}}": other, "guard_build_info{version='1'}": lives}


def alive(up: str, guard: str, labels: str = "namespace='a'") -> Series:
    """Whether Prometheus reads a target, and what that says of Guard."""
    return {f"up{{{labels}}}": up, f"guard_build_info{{version='1',{labels}}}": guard}


def self_tested(succeeded: str, interval: str) -> Series:
    """When the self-test succeeded, and how often it is made, of a model in force."""
    return {
        "guard_selftest_last_success_timestamp_seconds{model='digits'}": succeeded,
        "guard_selftest_interval_seconds{model='digits'}": interval,
        "guard_policy_mode{model='digits',mode='enforce'}": "1x100",
    }


def suspected(scope: str) -> Series:
    """Guard's own test for drift."""
    return {f"guard_drift_suspected{{model='digits',scope='{scope}'}}": "1x400"}


def evidence(outcome: str, values: str) -> Series:
    """What became of records of the audit log."""
    name = "guard_audit_events_total{sink='log',outcome="
    return {f"{name}'written'}}": "0+100x60", f"{name}'{outcome}'}}": values}


TESTED = self_tested("0+60x20 1200x80", "60x100")
"""Each minute, for 20 minutes."""

STEEP = items("0+99x10 1010+20x40", "0+1x10 90+80x40")
ATTACK = items("0+99x10 1000+50x40", "0+1x10 60+50x40")
LATE = items("0+99x120 11972+92x20", "0+1x120 128+8x20")
SINCE_LATELY = items("0+980x180", "0x160 20+20x20")
BURST = items("0+99x10 1000+50x10 1600+99x60", "0+1x10 60+50x10 561+1x60")
LONG = items("0+990x150 149000+500x60 179460+960x90", "0+10x150 2000+500x60 31540+40x90")
"""Of a thousand a minute 10, from 2:31 for an hour 500, then 40."""

RISING = items("0+990x200 198000+800x40", "0+10x200 2000+200x40")
"""Of a thousand a minute 10, from 3:21 on 200."""

WAS_MUCH = items("0+97x120 11640+100x90 20640+92x40", "0+3x120 360x90 360+8x40")
"""3 % for two hours, then nothing for one and a half, then 8 %."""

SOON = items("0+99x65 6435+92x140", "0+1x65 65+8x140")
"""1 % for an hour, then 8 %."""

STEADY = items("0+990x180 178200+800x500", "0+10x180 1800+200x500")
"""1 % for three hours, then 20 %."""

OTHERS = {"refused_malformed_request": "0+50x400", "unscreened_unlisted_model": "0+50x400"}
"""What clients do wrong, and what the policy lets pass, of a thousand requests a minute."""

WAS_BAD = failures("0+1000x160", unscreened_fault="0+20x100 2005+5x60", **OTHERS)
"""2 % for 100 minutes, then 0.5 %."""

IS_BAD = failures("0+1000x200", unscreened_fault="0x150 20+20x50", **OTHERS)
"""2 % since 150 minutes."""

USUAL = items("0+990x210", "0+10x210")

GONE = "1x20 stale"
POD_REPLACED = labelled("pod", "old", mode(GONE, "0x20 stale", GONE)) | labelled(
    "pod", "new", mode("_x20 1x40", "_x20 0x40", "_x20 1x40")
)
"""Both at one address."""

ENFORCED_IN_PART = apart(
    a=mode("1x15 0x60", "0x15 1x60"),
    b=mode("1x60") | at("b:9011", mode(GONE, "0x20 stale")),
    c=mode(GONE, "0x20 stale", GONE) | at("b:9011", {"guard_build_info{version='1'}": "1x60"}),
    d=mode(GONE, "0x20 stale", GONE),
    e=mode("1x60"),
)
"""Changed; left the policy of one replica; left with the replicas that had it; no Guard is left; as it should be."""

SPREAD = {
    name: values
    for number in range(24)
    for name, values in at(f"{number}:9011", concentrated(1.0, "0+9x60", "0x4 1x4 2x4 3x4 4x4 5x4 6x4")).items()
}
"""At each of 24 replicas one detection in five minutes."""

ASKED, QUIET = ({"guard_query_attack_clients{model='digits'}": f"{clients}x20"} for clients in (1, 0))
TWO_ASKED = ASKED | at("b:9011", QUIET)
UNSUSPECTED = {"guard_drift_suspected{model='digits',scope='several_clients'}": "0x400"}
CALIBRATED = {"guard_profile_calibration_samples{model='digits'}": "10000000x400"}
LOOSER = at("b:9011", {"guard_false_positive_rate_target{model='digits'}": "0.1x1500"})
"""Another replica, whose policy lets Guard flag 10 %."""

TWO_SUSPECTED = suspected("several_clients") | at("b:9011", UNSUSPECTED)
TWO_VERSIONS = (
    inferences("0+200x60", "digits@1", call="0+100x60")
    | inferences("0+200x60", "digits@2", call="0+50x60")
    | inferences("0+200x60", call="0+50x60")
)
"""Policies for two versions of a model, and one for the others."""

UNSEEN = items("0+97x120 11640+92x60", "0+3x120 360+8x60", "0+9900x200")
"""3 %, then 8 % of those that are screened, which are a hundred of ten thousand."""

RARE = items("0+9990x120 1198800+9950x60", "0+10x120 1200+50x60", rate=0.001)
"""0.1 %, then 0.5 %."""

PROXY = concentrated(1.0, "0+980x200", "0+22x200")
MASKED = inferences("0+200x60", call="0+100x60", failed="0+100x60")
UNWATCHED = inferences("0+200x15 stale", call="0+100x60")
IN_FORCE = "guard_policy_mode{model='digits',mode='enforce'}"
OFTEN = self_tested("0+60x60", "60x60")
UNTESTED = self_tested("0+60x20 stale", "60x20 stale")
SLOW_ONES, QUICK_ONES = overhead("0+10x60", "0+100x60"), overhead("0+100x60", "0+100x60")
CREDENTIALS = "guard_credentials_stale{section='listen'}"
PULSES = items("0+990x300", counted(*(5 + 500 * (minute >= 120 and minute % 20 < 11) for minute in range(300))))
"""From two hours on eleven minutes of twenty are heavy."""

MANY_ASKED = QUIET | {"guard_suspicious_queries_total{model='digits'}": "0+20x40"}
"""No client enough to be told."""

STALE = {"guard_config_last_reload_successful": "1x40", CREDENTIALS: "0x10 1x40"}
CERTIFICATE = "guard_tls_cert_expiry_timestamp_seconds{file='server.crt'}"
HOURLY = " ".join(f"{(cycle * 55 + 120) * 60}x54" for cycle in range(28))
"""A certificate that lives for two hours, and is replaced after 55 minutes."""

EACH_TWO_DAYS = " ".join(f"{(2 * cycle + 3) * 86400}x2879" for cycle in range(3))
"""One that lives for three days, and is replaced after two."""

OF_TWO_PODS = {CERTIFICATE: "216000x1500"} | at("b:9011", {CERTIFICATE: "216000x1000 999999x500"})
"""One has a new one."""


def of_clients(requests: str, each: str) -> Series:
    """As many of each reason why nobody looked that is clients' own."""
    return failures(
        requests, **{f"unscreened_{why}": each for why in ("client_deadline", "invalid_input", "other_shape")}
    )


IN_HASTE = of_clients("0+1000x60", "0+5x60")
