"""A row of `alert_cases`, and how promtool takes it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Case:
    """One look at one alert. `fires` are the labels that it fires with, once for each."""

    alert: str
    what: str
    series: dict[str, str]
    at_min: int
    fires: tuple[dict[str, str], ...] = ()
    labels: dict[str, str] = field(default_factory=lambda: {"job": "guard", "instance": "a:9011"})


def as_promtool(case: Case, own_labels: dict[str, str], names: list[str]) -> dict[str, Any]:
    """A case as one of promtool's tests, of the alerts by these names.

    Labels that tell rules of one name apart are the case's.
    """
    return {
        "name": f"{case.alert}: {case.what}",
        "interval": "1m",
        "input_series": [
            {"series": _with(series, case.labels), "values": values} for series, values in case.series.items()
        ],
        "alert_rule_test": [
            {
                "eval_time": f"{case.at_min}m",
                "alertname": name,
                "exp_alerts": [{"exp_labels": own_labels | labels} for labels in case.fires],
            }
            for name in names
        ],
    }


def _with(series: str, labels: dict[str, str]) -> str:
    name, _, given = series.partition("{")
    more = [f"{label}='{value}'" for label, value in labels.items() if f"{label}=" not in given]
    return f"{name}{{{','.join([*filter(None, [given.rstrip('}')]), *more])}}}"
