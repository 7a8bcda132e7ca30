"""The dashboards' panels as pictures: a real Prometheus reads a real Guard and Triton, benign traffic, then attack.

`make panels` writes docs/images/. There is no Grafana here, so each panel's expressions are evaluated by Prometheus,
and drawn where the dashboard has the panel. Time is divided by ten. `make ops-test` does it in a greater hurry,
and looks only whether a panel is empty.
"""

from __future__ import annotations

import json
import re
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from deploy.grafana.parts import EXPECTED
from guard.app import Sidecar
from tests.ops.guarded import guarded
from tests.ops.traffic import sending
from tests.ops.watchers import HURRY, Prometheus, hurried, watching
from tests.support import digits
from tests.support.triton import Triton

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "docs" / "images"
DASHBOARDS = sorted((ROOT / "deploy" / "grafana").glob("*.json"))
PEOPLE = [f"127.0.0.{number}" for number in range(10, 18)]
ATTACKERS = [f"127.0.1.{number}" for number in range(10, 14)]
PROBER = ["127.0.1.20"]
STEP_S = 1
LATE_S = 10
"""What was there so long ago still is: on a busy machine the last readings are late."""

_COLUMNS, _ROW_PX, _COLUMN_PX, _DPI = 24, 34, 58, 100
_MOST_LEGENDS = 12
_BAND_NAMES = 0.022  # of the picture's width
_HANDLE_PX, _LETTER_PX = 50, 4.5
_VARIABLES = {"$__rate_interval": "15s", "$model": ".+"}


@dataclass(frozen=True)
class Pace:
    """What time is divided by, and the seconds of benign traffic, of those that are drawn, and of the attack.

    It takes an hour of divided time until there is something usual.
    """

    hurry: int = HURRY
    usual_s: float = 400.0
    benign_s: float = 90.0
    attack_s: float = 75.0


@dataclass(frozen=True)
class Line:
    """A series that a panel shows."""

    legend: str
    times_s: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class Watched:
    """What was seen: when it began, when the attack did, and when it ended."""

    prometheus: Prometheus
    began_s: float
    attacked_s: float
    ended_s: float
    hurry: int

    @property
    def seconds(self) -> float:
        """How long it was."""
        return self.ended_s - self.began_s

    def lines(self, target: dict[str, Any]) -> Iterator[Line]:
        """The series of an expression, over the whole time."""
        expression = hurried(target["expr"], self.hurry)
        for variable, value in _VARIABLES.items():
            expression = expression.replace(variable, value)
        found = self.prometheus.ask(
            f"query_range?query={quote(expression)}&start={self.began_s}&end={self.ended_s}&step={STEP_S}"
        )
        for series in found["result"]:
            legend = target["legendFormat"]
            for label in re.findall(r"{{(\w+)}}", legend):
                legend = legend.replace(f"{{{{{label}}}}}", series["metric"].get(label, ""))
            at, values = zip(*((float(at), float(value)) for at, value in series["values"]), strict=True)
            yield Line(legend, np.array(at) - self.began_s, np.array(values))


def _unit(value: float, unit: str) -> str:
    match unit:
        case "percentunit":
            return f"{value * 100:.3g} %"
        case "s":
            return f"{value * 1000:.3g} ms" if value < 1 else f"{value:.3g} s"
        case "bytes":
            return f"{value / 1024:,.0f} KiB"
        case "reqps" | "cps":
            return f"{value:.3g}/s"
        case _:
            return f"{value:.3g}"


def draw(board: dict[str, Any], watched: Watched) -> tuple[Figure, list[str]]:
    """A dashboard as a picture, and the titles of panels that show nothing."""
    bottom = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in board["panels"]) + 2
    width, height = _COLUMNS * _COLUMN_PX, bottom * _ROW_PX
    figure, empty = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI), []
    figure.text(0.01, 1 - 0.9 / bottom, board["title"], size=16, weight="bold", va="center")
    said = f"seconds, each for {watched.hurry}; a CPU that others use too; the attack begins at the dotted line"
    figure.text(0.99, 1 - 0.9 / bottom, said, size=8, color="gray", va="center", ha="right")
    for panel in board["panels"]:
        place = panel["gridPos"]
        x, y = place["x"] / _COLUMNS, 1 - (place["y"] + 2) / bottom
        if panel["type"] == "row":
            figure.text(x + 0.01, y - 0.5 / bottom, panel["title"], size=11, weight="bold", va="center")
            continue
        w, h = place["w"] / _COLUMNS, place["h"] / bottom
        axes = figure.add_axes((x + 0.035, y - h + 1.8 / bottom, w - 0.045, h - 3.4 / bottom))
        figure.text(x + 0.01, y - 0.45 / bottom, panel["title"], size=9, weight="bold", va="center")
        figure.text(x + 0.01, y - 1.1 / bottom, panel["description"], size=7, color="gray", va="center")
        if not _panel(axes, panel, watched):
            empty.append(panel["title"])
            axes.text(0.5, 0.5, "no data", transform=axes.transAxes, ha="center", color="gray")
    return figure, empty


def _panel(axes: Axes, panel: dict[str, Any], watched: Watched) -> bool:
    """Draw a panel. Whether there is something to show."""
    shown = [line for target in panel["targets"] for line in watched.lines(target)]
    unit = panel["fieldConfig"]["defaults"].get("unit", "short")
    if panel["type"] == "stat":
        return _stat(axes, panel, [line for line in shown if line.times_s[-1] > watched.seconds - LATE_S])
    axes.tick_params(labelsize=6)
    axes.set_xlim(0, watched.seconds)
    axes.axvline(watched.attacked_s - watched.began_s, linestyle=":", color="red", linewidth=1)
    if panel["type"] == "heatmap":
        return _heatmap(axes, panel, shown, watched.seconds)
    _timeseries(axes, shown, unit, _areas(panel))
    defaults = panel["fieldConfig"]["defaults"]
    axes.set_ylim(top=defaults.get("max"))
    scale = defaults.get("custom", {}).get("scaleDistribution", {})
    if scale.get("type") == "symlog":
        axes.set_yscale("symlog", base=scale["log"], linthresh=scale["linearThreshold"])
        axes.yaxis.set_major_formatter(lambda value, _: _unit(value, unit))
    return bool(shown)


def _stat(axes: Axes, panel: dict[str, Any], now: list[Line]) -> bool:
    """What there is at the end, in figures, or by name alone where the panel says so."""
    axes.set_axis_off()
    by_name = panel["options"].get("textMode") == "name"
    unit = panel["fieldConfig"]["defaults"].get("unit", "short")
    for index, line in enumerate(now):
        text = line.legend if by_name else f"{line.legend}  {_unit(line.values[-1], unit)}".strip()
        axes.text(0.5, 1 - (index + 0.5) / len(now), text, size=10 if by_name else 15, ha="center", va="center")
    return bool(now)


def _heatmap(axes: Axes, panel: dict[str, Any], shown: list[Line], seconds: float) -> bool:
    """The series as rows of cells, from below, a cell for each step; those that the panel leaves out stay white."""
    colour, steps = panel["options"]["color"], np.arange(0, seconds, STEP_S)
    place = axes.get_position()
    axes.set_position((place.x0 + _BAND_NAMES, place.y0, place.width - _BAND_NAMES, place.height))
    cells = np.full((len(shown), len(steps)), np.nan)
    for row, line in zip(cells, shown, strict=True):
        at = np.round(line.times_s / STEP_S).astype(int)
        row[at[at < len(steps)]] = line.values[at < len(steps)]
    cells[~(cells > panel["options"]["filterValues"]["le"])] = np.nan
    # Grafana turns its diverging schemes round: the highest are red.
    colours = mpl.colormaps[f"{colour['scheme']}_r"].resampled(colour["steps"])
    edges = np.append(steps, steps[-1] + STEP_S)
    mesh = axes.pcolormesh(
        edges, np.arange(len(shown) + 1), cells, cmap=colours, vmin=colour["min"], vmax=colour["max"], rasterized=True
    )
    axes.set_yticks(np.arange(len(shown)) + 0.5, [line.legend for line in shown])
    axes.figure.colorbar(mesh, ax=axes, fraction=0.03, pad=0.01).ax.tick_params(labelsize=6)
    return bool(np.isfinite(cells[1:]).any())


def _areas(panel: dict[str, Any]) -> dict[str, tuple[str, str | None]]:
    """Lines with a colour of their own, which is that of the area down to another, or to nothing, by their legends."""
    found = {}
    for override in panel["fieldConfig"]["overrides"]:
        look = {each["id"]: each["value"] for each in override["properties"]}
        if look.get("custom.fillOpacity"):
            colour = look["color"]["fixedColor"]
            found[override["matcher"]["options"]] = colour, look.get("custom.fillBelowTo")
    return found


def _timeseries(axes: Axes, shown: list[Line], unit: str, areas: dict[str, tuple[str, str | None]]) -> None:
    by_legend = {line.legend: line for line in shown}
    for line in shown:
        style: dict[str, Any] = {"linewidth": 1}
        if line.legend.startswith(EXPECTED):
            style = {"linewidth": 0.8, "color": "black", "linestyle": "--"}
        elif line.legend in areas:
            style["color"], below = areas[line.legend]
            down_to = np.zeros_like(line.values) if below is None else by_legend[below].values
            axes.fill_between(line.times_s, down_to, line.values, alpha=0.7, color=style["color"], linewidth=0)
        axes.plot(line.times_s, line.values, label=line.legend, **style)
    if shown:
        axes.set_ylim(bottom=min(0.0, *(np.nanmin(line.values) for line in shown if np.isfinite(line.values).any())))
    axes.yaxis.set_major_formatter(lambda value, _: _unit(value, unit))
    axes.grid(alpha=0.3)
    if len(shown) > _MOST_LEGENDS:
        axes.text(0.99, 0.95, f"{len(shown)} series", transform=axes.transAxes, size=6, ha="right", va="top")
    handles, labels = _named(axes)
    widest_px = _HANDLE_PX + _LETTER_PX * max(map(len, labels), default=1)
    columns = min(5, max(1, int(axes.get_window_extent().width / widest_px)))
    place = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.1)}
    axes.legend(handles, labels, fontsize=6, frameon=False, ncols=columns, **place)


def _named(axes: Axes) -> tuple[list[Any], list[str]]:
    """What the legend names: of several expected lines the first, as what these are."""
    handles, labels = axes.get_legend_handles_labels()
    expected = [label for label in labels if label.startswith(EXPECTED)]
    named = [pair for pair in zip(handles, labels, strict=True) if pair[1] not in expected[1:]][:_MOST_LEGENDS]
    return [handle for handle, _ in named], [EXPECTED if label in expected else label for _, label in named]


@contextmanager
def watch(sidecar: Sidecar, triton: Triton, folder: Path, pace: Pace) -> Iterator[Watched]:
    """Benign traffic, then an attack with perturbed inputs and one that probes around an input."""
    test, labels = digits.load_data().test
    attacks = digits.attack(digits.trained_network(), test, labels)
    rng = np.random.default_rng(0)
    probes = np.clip(test[:1] + rng.normal(0, 0.004, (400, *test.shape[1:])), 0, 1).astype(np.float32)
    addresses = sidecar.admin_port, triton.metrics_address
    with (
        watching(folder, *addresses, overhead_limit_s=0.025, hurry=pace.hurry) as (prometheus, _),
        sending(sidecar.http_port, test, PEOPLE, pace_s=0.8),
    ):
        threading.Event().wait(pace.usual_s)
        attacked_s = time.time()
        with (
            sending(sidecar.http_port, attacks, ATTACKERS, pace_s=0.4),
            sending(sidecar.http_port, probes, PROBER, pace_s=0.3),
        ):
            threading.Event().wait(pace.attack_s)
            yield Watched(prometheus, attacked_s - pace.benign_s, attacked_s, time.time(), pace.hurry)


def main() -> None:
    """Draw each dashboard, and say what shows nothing."""
    mpl.use("Agg")
    IMAGES.mkdir(exist_ok=True)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        watched = stack.enter_context(watch(*stack.enter_context(guarded(folder)), folder, Pace()))
        for path in DASHBOARDS:
            figure, empty = draw(json.loads(path.read_text()), watched)
            figure.savefig(IMAGES / f"{path.stem}.png")
            print(f"docs/images/{path.stem}.png; without data: {', '.join(empty) or 'none'}")  # noqa: T201 - its answer


if __name__ == "__main__":
    main()
