"""The dashboard that says how Guard itself is."""

# ruff: noqa: INP001 - a part of the script dashboards.py

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from deploy.grafana.parts import MODEL, RATE, board, lines, number, occasional


def service() -> Any:
    """How Guard itself is."""
    about = "Whether Guard does its work, how fast, and whether all goes through it."
    rows = {
        "Now": _now(),
        "Time": _time(),
        "The engine": _engine(),
        "Failures": _failures(),
        "The guarded server": _server(),
        "Evidence": _evidence(),
    }
    return board("guard-service", "Guard: service", about, rows)


def _now() -> Sequence[Any]:
    tested = f"time() - min by (model) (guard_selftest_last_success_timestamp_seconds{{{MODEL}}})"
    enforced = f'min by (model) (guard_policy_mode{{{MODEL},mode="enforce"}})'
    refusing = "count(guard_config_last_reload_successful == 0) or vector(0)"
    return (
        number("Replicas", "Whose metrics are read", "count(guard_build_info)"),
        number("Enforced", "1 where every replica rejects", enforced),
        number("Self-test", "Since known attacks were found, where that is longest ago", tested, "s"),
        number("Reload refused", "Replicas that refuse a changed policy", refusing),
    )


def _time() -> Sequence[Any]:
    overhead, whole, server = (
        f"sum by (le) (rate({name}_bucket{RATE}))"
        for name in (
            "guard_overhead_seconds",
            "guard_request_duration_seconds",
            "guard_upstream_request_duration_seconds",
        )
    )
    detector = f"sum by (le, detector) (rate(guard_detector_duration_seconds_bucket{RATE}))"
    return (
        lines(
            "Overhead",
            "What Guard adds to a request",
            [
                (f"histogram_quantile(0.5, {overhead})", "half"),
                (f"histogram_quantile(0.99, {overhead})", "99 of 100"),
                ("guard:overhead_seconds:limit", "alert"),
            ],
            "s",
            span=8,
        ),
        lines(
            "Requests and server, 99 of 100",
            "End to end, and the guarded server's part",
            [(f"histogram_quantile(0.99, {whole})", "end to end"), (f"histogram_quantile(0.99, {server})", "server")],
            "s",
            span=8,
        ),
        lines(
            "Detectors, 99 of 100",
            "From the start of an input's screening to the finding",
            [(f"histogram_quantile(0.99, {detector})", "{{detector}}")],
            "s",
            span=8,
        ),
    )


def _engine() -> Sequence[Any]:
    busy = f"rate(guard_engine_busy_seconds_total{{{MODEL}}}{RATE})"
    evaluations = f"rate(guard_model_evaluations_total{{{MODEL}}}{RATE})"
    of_one = f"sum by (model) ({evaluations}) / sum by (model) (rate(guard_items_total{{{MODEL}}}{RATE}))"
    waiting = f"sum by (model) (guard_queued_items{{{MODEL}}})"
    return (
        lines(
            "Engine",
            "Share of the time that evaluations were under way; at 100 % it keeps up no more",
            [(f"avg by (model) ({busy})", "{{model}}"), (f"max by (model) ({busy})", "{{model}}: busiest replica")],
            "percentunit",
        ),
        lines(
            "Queue",
            "Inputs that wait, and requests in hand",
            [(waiting, "{{model}}: waiting"), ("sum(guard_inflight_requests)", "in hand")],
        ),
        lines(
            "Evaluations",
            "Of the guarded model, a second: what detection spends, by detector",
            [(f"sum({evaluations})", "all"), (f"sum by (detector) ({evaluations}) > 0", "{{detector}}")],
            "cps",
        ),
        lines("Evaluations for an input", "What one costs, on average", [(of_one, "{{model}}")]),
    )


def _failures() -> Sequence[Any]:
    unscreened = f"rate(guard_unscreened_requests_total{{{MODEL}}}{RATE})"
    refused = f"rate(guard_refused_requests_total{RATE})"
    faults = f"rate(guard_detector_errors_total{RATE})"
    return (
        occasional("Not screened", "Requests that nobody looked at, by reason", unscreened, "reason", "reqps"),
        occasional("Refused", "Calls that ended in an error of Guard's own", refused, "reason", "reqps"),
        occasional("Detectors' faults", "Inputs at which a detector could not look", faults, "detector, reason", "cps"),
        lines(
            "Failures against the objective",
            "Alerts at 14.4 and 6 times 0.1 %",
            [
                ("guard:failures:ratio1h", "an hour"),
                ("guard:failures:ratio6h", "six hours"),
                ("vector(0.001)", "objective"),
            ],
            "percentunit",
        ),
    )


def _server() -> Sequence[Any]:
    answers = f"rate(guard_upstream_requests_total{{{MODEL}}}{RATE})"
    # Triton counts by the model's name, so what is chosen by version is looked up by that.
    entries = f'label_replace(guard_upstream_inferences_total{{{MODEL}}}, "entry", "$1", "model", "(.*)")'
    chosen = f'label_replace({entries}, "model", "$1", "model", "([^@]+)@.*")'
    asked, ran = (
        f"sum by (model) (guard:{whose}_inferences:increase10m and on (namespace, model) {chosen})"
        for whose in ("upstream", "triton")
    )
    return (
        lines(
            "Guard against Triton",
            "Inferences in ten minutes that Guard asked for, and that Triton ran: more is a bypass",
            [(asked, "{{model}}: asked"), (ran, "{{model}}: ran")],
        ),
        occasional("Answers", "Of the server, by gRPC status", answers, "code", "reqps"),
    )


def _evidence() -> Sequence[Any]:
    audit = f"rate(guard_audit_events_total{RATE})"
    about = "Pieces for the audit log and the captures; dropped and failed ones are lost"
    return (
        occasional("Evidence", about, audit, "sink, outcome", "cps"),
        lines("Evidence on disk", "What it takes", [("sum(guard_audit_disk_bytes)", "audit")], "bytes"),
    )
