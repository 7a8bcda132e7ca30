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
    from grafana_foundation_sdk.builders import dashboard, heatmap, prometheus, stat, timeseries
    from grafana_foundation_sdk.models.common import BigValueTextMode, DataSourceRef, TooltipDisplayMode
    from grafana_foundation_sdk.models.dashboard import DynamicConfigValue, VariableOption
    from grafana_foundation_sdk.models.heatmap import HeatmapColorMode

from guard.observe.families import P_VALUE_BUCKETS

SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
MODEL = 'model=~"$model"'
RATE = "[$__rate_interval]"
P_VALUES = f'{MODEL},detector="combined"'
EXPECTED = "expected"
"""The legend of the line that clean traffic keeps to, or how those of several begin."""

BANDS = {0.05: "#a50026", 0.1: "#d73027", 0.25: "#f46d43", 0.5: "#fdae61", 0.75: "#fee090", 1.0: "#ffffcc"}
"""Colours of the p-values up to each of these, from the bound before."""

LEAST_BAND = 0.01
"""Where the heat map's lowest band of p-values ends."""

DOUBLINGS = 3
"""Of what is expected of a band of p-values: where the heat map's colours end, on both sides."""

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


def p_value_areas() -> Any:
    """What share of the p-values is up to each bound, in areas that end on dashed lines where it is as expected."""
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


def p_value_map() -> Any:
    """A heat map of the p-values, band by band in doublings of what is expected, on the line of what is expected.

    Grafana draws no line on a heat map, and its colours have no logarithmic scale: so the line is its lowest row, and
    the values are logarithms.
    """
    of_all, up_to = _p_values("15m")
    bands = [("vector(0)", EXPECTED)]
    # A profile of a hundred samples has no p-value below a hundredth.
    for low, high in pairwise((0.0, *(bound for bound in P_VALUE_BUCKETS if bound >= LEAST_BAND))):
        within = f"({up_to[high]} - {up_to[low]})" if low else up_to[high]
        over = f"{within} / ({of_all} >= {1 / (high - low):.4g}) / {high - low:.3g}"
        bands.append((f"log2(clamp_min({over}, {2.0**-DOUBLINGS:g}))", f"{low:g} to {high:g}"))
    title = "p-values over what is expected"
    about = "In doublings: 0 as expected, 3 or more eight times that. Empty where less than one input is expected"
    panel = heatmap.Panel().title(title).description(about).datasource(SOURCE).height(8).span(12).calculate(False)
    for expression, legend in bands:
        panel = panel.with_target(_query(expression, legend))
    colours = heatmap.HeatmapColorOptions().mode(HeatmapColorMode.SCHEME).scheme("RdBu").steps(64)
    # Unless told otherwise Grafana leaves out what is 0 or less.
    shown = heatmap.FilterValueRange().le(-2.0 * DOUBLINGS)
    values = heatmap.CellValues().unit("short").decimals(1)
    panel = panel.color(colours.min(-DOUBLINGS).max(DOUBLINGS)).filter_values(shown).cell_values(values)
    return panel.cell_gap(1).show_legend().tooltip(heatmap.HeatmapTooltip().mode(TooltipDisplayMode.SINGLE))


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
