"""Guard's dashboards for Grafana, as code: `make dashboards` writes the JSON files beside this one.

Ids, positions and the schema are the SDK's business. Every expression here is checked: that it parses, and that each
metric in it is one that Guard exports.
"""

# ruff: noqa: INP001 - a script beside what it makes, no part of a package

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

with warnings.catch_warnings():
    # The SDK would rather have its second schema, which older Grafanas don't read; the first is read by all.
    warnings.simplefilter("ignore", DeprecationWarning)
    from grafana_foundation_sdk.builders import dashboard, heatmap, prometheus, stat, timeseries
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.models.common import DataSourceRef
    from grafana_foundation_sdk.models.dashboard import VariableOption
    from grafana_foundation_sdk.models.prometheus import PromQueryFormat

FOLDER = Path(__file__).parent
SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
MODEL = 'model=~"$model"'
Lines = Sequence[tuple[str, str]]
"""Expressions, each with the name of its lines in the legend."""


def _query(expression: str, legend: str) -> prometheus.Dataquery:
    return prometheus.Dataquery().expr(expression).legend_format(legend).datasource(SOURCE)


def number(title: str, about: str, expression: str, unit: str = "short") -> Any:
    """A panel with one number for each line."""
    panel = stat.Panel().title(title).description(about).datasource(SOURCE).unit(unit).height(5).span(6)
    return panel.with_target(_query(expression, "{{model}}").instant())


def lines(title: str, about: str, queries: Lines, unit: str = "short", span: int = 12) -> Any:
    """A panel with lines over time."""
    panel = timeseries.Panel().title(title).description(about).datasource(SOURCE).unit(unit).height(8).span(span)
    panel = panel.min(0).fill_opacity(8)
    for expression, legend in queries:
        panel = panel.with_target(_query(expression, legend))
    return panel


def occasional(title: str, about: str, rate: str, by: str, unit: str) -> Any:
    """A panel with lines over time of what is mostly nothing: one of all, and of each only while there is some."""
    legend = ": ".join(f"{{{{{label}}}}}" for label in by.split(", "))
    return lines(title, about, [(f"sum({rate})", "all"), (f"sum by ({by}) ({rate}) > 0", legend)], unit)


def p_value_map() -> Any:
    """How p-values are spread over time."""
    expression = (
        f'sum by (le) (increase(guard_detector_pvalue_ratio_bucket{{{MODEL},detector="combined"}}[$__rate_interval]))'
    )
    query = _query(expression, "{{le}}").format(PromQueryFormat.HEATMAP)
    return (
        heatmap.Panel()
        .title("p-values")
        .description("On clean traffic as many as a bucket is wide: 5 % up to 0.05. An attack is a band at the bottom.")
        .datasource(SOURCE)
        .height(8)
        .span(12)
        .with_target(query)
    )


def _board(uid: str, title: str, about: str) -> dashboard.Dashboard:
    models = "label_values(guard_items_total, model)"
    return (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(about)
        .tags(["guard"])
        .readonly()
        .refresh("30s")
        .time("now-3h", "now")
        .timezone("browser")
        .with_variable(dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
        .with_variable(
            dashboard.QueryVariable("model")
            .label("Model")
            .datasource(SOURCE)
            .query(models)
            .multi(True)
            .include_all(True)
            .current(VariableOption(text="All", value="$__all"))
        )
    )


def attacks() -> dashboard.Dashboard:
    """Is there an attack now: on what, by which technique, from how many."""
    by_detector = f"rate(guard_verdicts_total{{{MODEL}}}[$__rate_interval])"
    evaluations = f"sum by (detector) (rate(guard_model_evaluations_total{{{MODEL}}}[$__rate_interval])) > 0"
    found = f"guard:detections:ratio5m{{{MODEL}}}"
    usual = f"guard:detections:baseline{{{MODEL}}}"
    top = f"max by (model) (guard_client_detections_top_share_ratio{{{MODEL}}})"
    probing = f"max by (model) (guard_query_attack_clients{{{MODEL}}})"
    queries = f"sum by (model) (rate(guard_suspicious_queries_total{{{MODEL}}}[$__rate_interval]))"
    shared = f"sum by (model) (rate(guard_shared_perturbations_total{{{MODEL}}}[$__rate_interval]))"
    verdicts = f"sum by (verdict) (rate(guard_items_total{{{MODEL}}}[$__rate_interval]))"
    deeds = f"sum by (decision) (rate(guard_requests_total{{{MODEL}}}[$__rate_interval]))"
    drift = f"max by (model, scope) (guard_drift_log_martingale{{{MODEL}}})"
    return (
        _board("guard-attacks", "Guard: attacks", "Is there an attack now, and which. Needs deploy/prometheus's rules.")
        .with_row(dashboard.Row("Now"))
        .with_panel(number("Adversarial in five minutes", "Share of the inputs", found, "percentunit"))
        .with_panel(
            number("Usual", "What alerts compare with, 1 % to 5 %; none in the first hour", usual, "percentunit")
        )
        .with_panel(
            number("Most from one client", "Share of the adversarial inputs; 1 behind a proxy", top, "percentunit")
        )
        .with_panel(number("Clients that probe", "With ten or more near-duplicates in ten minutes", probing))
        .with_row(dashboard.Row("What"))
        .with_panel(
            lines(
                "Adversarial share",
                "The alert is at three times what is usual; at 10 % while nobody knows what that is",
                [
                    (found, "{{model}}"),
                    (f"3 * {usual} or 0 * {found} + 0.1", "{{model}}: alert"),
                ],
                "percentunit",
            )
        )
        .with_panel(occasional("By detector", "Adversarial inputs, by who was surest", by_detector, "detector", "cps"))
        .with_panel(lines("Verdicts", "Inputs a second", [(verdicts, "{{verdict}}")], "cps"))
        .with_panel(lines("Deeds", "Requests a second", [(deeds, "{{decision}}")], "reqps"))
        .with_panel(
            lines(
                "Campaigns",
                "Near-duplicates, and perturbations that several inputs share",
                [
                    (queries, "{{model}}: probing"),
                    (shared, "{{model}}: shared perturbation"),
                ],
                "cps",
            )
        )
        .with_panel(lines("Evaluations", "What detection spends, by detector", [(evaluations, "{{detector}}")], "cps"))
        .with_row(dashboard.Row("Is it drift?"))
        .with_panel(p_value_map())
        .with_panel(
            lines(
                "p-values up to 0.05, in an hour",
                "On clean traffic on the line at 5 %, give or take the tolerance",
                [
                    (f"guard:pvalues:tail1h{{{MODEL}}}", "{{model}}"),
                    ("vector(0.05)", "expected"),
                    (f"0.05 + guard:pvalues:tolerance1h{{{MODEL}}}", "{{model}}: tolerated"),
                ],
                "percentunit",
            )
        )
        .with_panel(
            lines("Evidence of drift", "In nats; 9 are one chance in 8000", [(drift, "{{model}}: {{scope}}")], span=24)
        )
    )


def service() -> dashboard.Dashboard:
    """How Guard itself is."""
    overhead = "sum by (le) (rate(guard_overhead_seconds_bucket[$__rate_interval]))"
    whole = "sum by (le) (rate(guard_request_duration_seconds_bucket[$__rate_interval]))"
    server = "sum by (le) (rate(guard_upstream_request_duration_seconds_bucket[$__rate_interval]))"
    detector = "sum by (le, detector) (rate(guard_detector_duration_seconds_bucket[$__rate_interval]))"
    unscreened = f"rate(guard_unscreened_requests_total{{{MODEL}}}[$__rate_interval])"
    refused = "rate(guard_refused_requests_total[$__rate_interval])"
    faults = "rate(guard_detector_errors_total[$__rate_interval])"
    answers = f"rate(guard_upstream_requests_total{{{MODEL}}}[$__rate_interval])"
    asked = f"sum by (model) (rate(guard_upstream_inferences_total{{{MODEL}}}[$__rate_interval]))"
    ran = f"sum by (model) (rate(nv_inference_request_success{{{MODEL}}}[$__rate_interval]))"
    audit = "rate(guard_audit_events_total[$__rate_interval])"
    tested = f"time() - max by (model) (guard_selftest_last_success_timestamp_seconds{{{MODEL}}})"
    enforced = f'min by (model) (guard_policy_mode{{{MODEL},mode="enforce"}})'
    return (
        _board(
            "guard-service", "Guard: service", "Whether Guard does its work, how fast, and whether all goes through it."
        )
        .with_row(dashboard.Row("Now"))
        .with_panel(number("Replicas", "Whose metrics are read", "count(guard_build_info)"))
        .with_panel(number("Enforced", "1 where every replica rejects", enforced))
        .with_panel(number("Self-test", "Since it found known attacks last", tested, "s"))
        .with_panel(
            number(
                "Reload refused",
                "Replicas that refuse a changed policy",
                "count(guard_config_last_reload_successful == 0) or vector(0)",
            )
        )
        .with_row(dashboard.Row("Time"))
        .with_panel(
            lines(
                "Overhead",
                "What Guard adds to a request",
                [
                    (f"histogram_quantile(0.5, {overhead})", "half"),
                    (f"histogram_quantile(0.99, {overhead})", "99 of 100"),
                    ("guard:overhead_seconds:limit", "alert"),
                ],
                "s",
            )
        )
        .with_panel(
            lines(
                "Requests and server, 99 of 100",
                "End to end, and the guarded server's part",
                [
                    (f"histogram_quantile(0.99, {whole})", "end to end"),
                    (f"histogram_quantile(0.99, {server})", "server"),
                ],
                "s",
            )
        )
        .with_panel(
            lines(
                "Detectors, 99 of 100",
                "From the start of an input's screening to the finding",
                [
                    (f"histogram_quantile(0.99, {detector})", "{{detector}}"),
                ],
                "s",
            )
        )
        .with_panel(
            lines(
                "Queue",
                "Inputs that wait, and requests in hand",
                [
                    (f"sum by (model) (guard_queued_items{{{MODEL}}})", "{{model}}: waiting"),
                    ("sum(guard_inflight_requests)", "in hand"),
                ],
            )
        )
        .with_row(dashboard.Row("Failures"))
        .with_panel(
            occasional("Not screened", "Requests that nobody looked at, by reason", unscreened, "reason", "reqps")
        )
        .with_panel(occasional("Refused", "Calls that ended in an error of Guard's own", refused, "reason", "reqps"))
        .with_panel(
            occasional(
                "Detectors' faults", "Inputs at which a detector could not look", faults, "detector, reason", "cps"
            )
        )
        .with_panel(
            lines(
                "Failures against the objective",
                "Alerts at 14.4 and 6 times 0.1 %",
                [
                    ("guard:failures:ratio1h", "an hour"),
                    ("guard:failures:ratio6h", "six hours"),
                    ("vector(0.001)", "objective"),
                ],
                "percentunit",
            )
        )
        .with_row(dashboard.Row("The guarded server"))
        .with_panel(
            lines(
                "Guard against Triton",
                "Inferences that Guard asked for, and that Triton ran: more is a bypass",
                [
                    (asked, "{{model}}: asked"),
                    (ran, "{{model}}: ran"),
                ],
                "reqps",
            )
        )
        .with_panel(
            occasional(
                "Evidence",
                "Pieces for the audit log and the captures; dropped and failed ones are lost",
                audit,
                "sink, outcome",
                "cps",
            )
        )
        .with_panel(lines("Evidence on disk", "What it takes", [("sum(guard_audit_disk_bytes)", "audit")], "bytes"))
        .with_panel(occasional("Answers", "Of the server, by gRPC status", answers, "code", "reqps"))
    )


def files() -> dict[str, str]:
    """The content of each file by its name."""
    boards = {"guard-attacks.json": attacks(), "guard-service.json": service()}
    return {
        name: json.dumps(board.build(), cls=JSONEncoder, indent=2, sort_keys=True) + "\n"
        for name, board in boards.items()
    }


if __name__ == "__main__":
    for name, content in files().items():
        (FOLDER / name).write_text(content, encoding="utf-8")
