"""What the dashboards are made of. Ids, positions and the schema are the SDK's business."""

# ruff: noqa: INP001 - a part of the script dashboards.py

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

with warnings.catch_warnings():
    # The SDK would rather have its second schema, which older Grafanas don't read; the first is read by all.
    warnings.simplefilter("ignore", DeprecationWarning)
    from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
    from grafana_foundation_sdk.models.common import BigValueTextMode, DataSourceRef, ScaleDistribution
    from grafana_foundation_sdk.models.dashboard import DynamicConfigValue, VariableOption

from guard.observe.families import P_VALUE_BUCKETS

SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
MODEL = 'model=~"$model"'
RATE = "[$__rate_interval]"
P_VALUES = f'{MODEL},detector="combined"'
EXPECTED = "expected"
"""The legend of the line that clean traffic keeps to, or how those of several begin."""

BANDS = {0.05: "#a50026", 0.1: "#d73027", 0.25: "#f46d43", 0.5: "#fdae61", 0.75: "#fee090", 1.0: "#ffffcc"}
"""Colours of the p-values up to each of these, from the bound before."""

Lines = Sequence[tuple[str, str]]
"""Expressions, each with the name of its lines in the legend."""


def _query(expression: str, legend: str) -> prometheus.Dataquery:
    return prometheus.Dataquery().expr(expression).legend_format(legend).datasource(SOURCE)


def number(title: str, about: str, expression: str, unit: str = "short") -> Any:
    """A panel with one number for each line."""
    panel = stat.Panel().title(title).description(about).datasource(SOURCE).unit(unit).height(5).span(6)
    return panel.with_target(_query(expression, "{{model}}").instant())


def names(title: str, about: str, expression: str, legend: str) -> Any:
    """A panel over the whole width that names what there is now, and says so where there is nothing."""
    panel = stat.Panel().title(title).description(about).datasource(SOURCE).height(5).span(24)
    panel = panel.text_mode(BigValueTextMode.NAME).no_value("none")
    return panel.with_target(_query(expression, legend).instant())


def lines(title: str, about: str, queries: Lines, unit: str = "short", span: int = 12) -> Any:
    """A panel with lines over time."""
    panel = timeseries.Panel().title(title).description(about).datasource(SOURCE).unit(unit).height(8).span(span)
    panel = panel.min(0).fill_opacity(8)
    for expression, legend in queries:
        panel = panel.with_target(_query(expression, legend))
        if legend == EXPECTED:
            panel = panel.override_by_name(EXPECTED, _looks({"custom.lineStyle": {"fill": "dash"}}))
    return panel


def occasional(title: str, about: str, rate: str, by: str, unit: str) -> Any:
    """A panel with lines over time of what is mostly nothing: one of all, and of each only while there is some."""
    legend = ": ".join(f"{{{{{label}}}}}" for label in by.split(", "))
    return lines(title, about, [(f"sum({rate})", "all"), (f"sum by ({by}) ({rate}) > 0", legend)], unit)


def p_value_map() -> Any:
    """How p-values are spread over time, in colours that end on dashed lines where they are as is expected.

    Grafana's heat map has no place for a line, so the colours are areas between lines.
    """
    of_all, up_to = _p_values("15m")
    panel = lines(
        "p-values",
        "Share of inputs up to each. Dashed: as in calibration, half of it changed. Cleaner traffic stays below, an "
        "attack lifts the lowest",
        [
            *((f"{up_to[bound]} / ({of_all} > 0)", f"up to {bound:g}") for bound in BANDS),
            *((f"vector({bound:g})", f"{EXPECTED} {bound:g}") for bound in list(BANDS)[:-1]),
        ],
        "percentunit",
    ).max(1)
    for below, (bound, colour) in zip((None, *BANDS), BANDS.items(), strict=False):
        look: dict[str, Any] = {"color": {"mode": "fixed", "fixedColor": colour}, "custom.fillOpacity": 70}
        if below is not None:
            look["custom.fillBelowTo"] = f"up to {below:g}"
        panel = panel.override_by_name(f"up to {bound:g}", _looks(look))
    expected = {
        "color": {"mode": "fixed", "fixedColor": "text"},
        "custom.lineStyle": {"fill": "dash"},
        "custom.fillOpacity": 0,
        "custom.hideFrom": {"legend": True, "tooltip": False, "viz": False},
    }
    return panel.override_by_regexp(f"/^{EXPECTED} /", _looks(expected))


def p_value_bands() -> Any:
    """The same over what is expected, for which a hundredth of the inputs is enough to be seen."""
    of_all, up_to = _p_values("15m")
    bands: list[tuple[str, str]] = [("vector(1)", EXPECTED)]
    for low, high in pairwise((0.0, *P_VALUE_BUCKETS)):
        within = f"({up_to[high]} - {up_to[low]})" if low else up_to[high]
        bands.append((f"{within} / ({of_all} > 0) / {high - low:.3g}", f"{low:g} to {high:g}"))
    panel = lines("p-values over what is expected", "Each band's share over its width, in a quarter of an hour", bands)
    # An attack has a thousand times what is expected in the lowest band, and nothing in the highest.
    scale = common.ScaleDistributionConfig().type(ScaleDistribution.SYMLOG).log(10).linear_threshold(1)
    return panel.scale_distribution(scale)


def _p_values(window: str) -> tuple[str, dict[float, str]]:
    """How many there were, and how many up to each bound."""
    bucket = f'increase(guard_detector_pvalue_ratio_bucket{{{P_VALUES},le="%s"}}[{window}])'
    of_all = f"sum(increase(guard_detector_pvalue_ratio_count{{{P_VALUES}}}[{window}]))"
    return of_all, {bound: f"sum({bucket % bound})" for bound in P_VALUE_BUCKETS}


def _looks(values: Mapping[str, Any]) -> list[DynamicConfigValue]:
    return [DynamicConfigValue(id_val=name, value=value) for name, value in values.items()]


def board(uid: str, title: str, about: str, rows: Mapping[str, Sequence[Any]]) -> dashboard.Dashboard:
    """A dashboard of rows of panels, by the rows' titles."""
    made = (
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
            .query("label_values(guard_items_total, model)")
            .multi(True)
            .include_all(True)
            .current(VariableOption(text="All", value="$__all"))
        )
    )
    for row, panels in rows.items():
        made = made.with_row(dashboard.Row(row))
        for panel in panels:
            made = made.with_panel(panel)
    return made
