"""The dashboard that says whether there is an attack now: which, on what, from how many."""

# ruff: noqa: INP001 - a part of the script dashboards.py

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from deploy.grafana.parts import (
    EXPECTED,
    MODEL,
    RATE,
    board,
    lines,
    names,
    number,
    occasional,
    p_value_areas,
    p_value_map,
)

FOUND = f"guard:detections:ratio5m{{{MODEL}}}"
USUAL = f"guard:detections:baseline{{{MODEL}}}"
CATALOGUES = "{{technique}} ({{atlas}} {{owasp_ml}} {{nist_aml}})"


def attacks() -> Any:
    """Is there an attack now: on what, by which technique, from how many."""
    about = "Is there an attack now, and which. Needs deploy/prometheus's rules."
    rows = {"Now": _now(), "What": _what(), "Is it drift?": _drift()}
    return board("guard-attacks", "Guard: attacks", about, rows)


def _now() -> Sequence[Any]:
    alerts = f'ALERTS{{alertstate="firing",technique!="",{MODEL}}}'
    top = f"max by (model) (guard:detections:top_share5m{{{MODEL}}})"
    probing = f"max by (model) (guard_query_attack_clients{{{MODEL}}})"
    return (
        names(
            "Alerts of attacks",
            "What fires, and which technique that is in MITRE ATLAS, OWASP's Machine Learning Top 10 and NIST AI 100-2",
            f"max by (alertname, model, technique, atlas, owasp_ml, nist_aml) ({alerts})",
            f"{{{{alertname}}}}, {{{{model}}}}: {CATALOGUES}",
        ),
        number("Adversarial in five minutes", "Share of the inputs", FOUND, "percentunit"),
        number("Usual", "What alerts compare with: the week's median, within bounds", USUAL, "percentunit"),
        number("Most from one client", "Of each replica: share of those found; 1 behind a proxy", top, "percentunit"),
        number("Clients that probe", "With ten or more near-duplicates in ten minutes", probing),
    )


def _what() -> Sequence[Any]:
    shown = f"sum by (technique, atlas, owasp_ml, nist_aml) (guard:techniques:increase5m{{{MODEL}}}) > 0"
    by_detector = f"rate(guard_verdicts_total{{{MODEL}}}{RATE})"
    queries = f"sum by (model) (rate(guard_suspicious_queries_total{{{MODEL}}}{RATE}))"
    shared = f"sum by (model) (rate(guard_shared_perturbations_total{{{MODEL}}}{RATE}))"
    verdicts = f"sum by (verdict) (rate(guard_items_total{{{MODEL}}}{RATE}))"
    deeds = f"sum by (decision) (rate(guard_requests_total{{{MODEL}}}{RATE}))"
    return (
        lines(
            "Adversarial share",
            "The alert is at three times what is usual, where that is sure",
            [(FOUND, "{{model}}"), (f"3 * {USUAL}", "{{model}}: alert")],
            "percentunit",
        ),
        lines(
            "By technique",
            "Inputs of the last five minutes. False alarms look like the first",
            [(shown, CATALOGUES)],
        ),
        occasional("By detector", "Adversarial inputs, by who was surest", by_detector, "model, detector", "cps"),
        lines(
            "Campaigns",
            "Near-duplicates, and perturbations that several inputs share",
            [(queries, "{{model}}: probing"), (shared, "{{model}}: shared perturbation")],
            "cps",
        ),
        lines("Verdicts", "Inputs a second", [(verdicts, "{{verdict}}")], "cps"),
        lines("Deeds", "Requests a second", [(deeds, "{{decision}}")], "reqps"),
    )


def _drift() -> Sequence[Any]:
    evidence = f"max by (model, scope) (guard_drift_log_martingale{{{MODEL}}})"
    return (
        p_value_map(),
        p_value_areas(),
        lines(
            "p-values up to 0.05, in an hour",
            "On clean traffic on the line at 5 % or below; an alert above the tolerance",
            [
                (f"guard:pvalues:tail1h{{{MODEL}}}", "{{model}}"),
                ("vector(0.05)", EXPECTED),
                (f"0.05 + guard:pvalues:tolerance1h{{{MODEL}}}", "{{model}}: tolerated"),
            ],
            "percentunit",
        ),
        lines("Evidence of drift", "In nats; 9 are one chance in 8000", [(evidence, "{{model}}: {{scope}}")]),
    )
