"""The dashboards' panels as pictures: a real Prometheus reads a real Guard and Triton, benign traffic, then attack.

`make panels` writes docs/images/. There is no Grafana here, so each panel's expressions are evaluated by Prometheus,
and drawn where the dashboard has the panel. Time is divided by ten, as in `make ops-test`.
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
USUAL_S, BENIGN_S, ATTACK_S = 400.0, 90.0, 75.0
"""Of benign traffic the last seconds are drawn: it takes an hour, 360 s of these, until there is something usual."""

STEP_S = 1
LATE_S = 10
"""What was there so long ago still is: on a busy machine the last readings are late."""

_COLUMNS, _ROW_PX, _COLUMN_PX, _DPI = 24, 34, 58, 100
_MOST_LEGENDS = 12
_HANDLE_PX, _LETTER_PX = 50, 4.5
_VARIABLES = {"$__rate_interval": "15s", "$model": ".+"}


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

    @property
    def seconds(self) -> float:
        """How long it was."""
        return self.ended_s - self.began_s

    def lines(self, target: dict[str, Any]) -> Iterator[Line]:
        """The series of an expression, over the whole time."""
        expression = hurried(target["expr"])
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
    said = f"seconds, each for {HURRY}; a CPU that others use too; the attack begins at the dotted line"
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
        _heatmap(axes, shown)
    else:
        _timeseries(axes, shown, unit)
    scale = panel["fieldConfig"]["defaults"].get("custom", {}).get("scaleDistribution", {})
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


def _timeseries(axes: Axes, shown: list[Line], unit: str) -> None:
    for line in shown:
        style = {"color": "black", "linestyle": "--"} if line.legend == EXPECTED else {}
        axes.plot(line.times_s, line.values, linewidth=1, label=line.legend, **style)
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
    handles, labels = axes.get_legend_handles_labels()
    return handles[:_MOST_LEGENDS], labels[:_MOST_LEGENDS]


def _heatmap(axes: Axes, shown: list[Line]) -> None:
    """Counts by bucket, as Grafana makes of cumulative ones."""
    bounds = sorted((line for line in shown), key=lambda line: float(line.legend))
    times_s = np.unique(np.concatenate([line.times_s for line in bounds])) if bounds else np.zeros(0)
    cumulative = np.zeros((len(bounds) + 1, len(times_s)))
    for row, line in enumerate(bounds):
        cumulative[row + 1, np.searchsorted(times_s, line.times_s)] = np.nan_to_num(line.values)
    axes.imshow(
        np.clip(np.diff(cumulative, axis=0), 0, None),
        aspect="auto",
        origin="lower",
        cmap="Oranges",
        interpolation="nearest",
        extent=(times_s[0], times_s[-1], 0, len(bounds)) if len(times_s) else (0, 1, 0, 1),
    )
    axes.set_yticks(np.arange(len(bounds)) + 1, [line.legend for line in bounds])


@contextmanager
def watch(sidecar: Sidecar, triton: Triton, folder: Path) -> Iterator[Watched]:
    """Benign traffic, then an attack with perturbed inputs and one that probes around an input."""
    test, labels = digits.load_data().test
    attacks = digits.attack(digits.trained_network(), test, labels)
    rng = np.random.default_rng(0)
    probes = np.clip(test[:1] + rng.normal(0, 0.004, (400, *test.shape[1:])), 0, 1).astype(np.float32)
    with (
        watching(folder, sidecar.admin_port, overhead_limit_s=0.025, triton=triton.metrics_address) as (prometheus, _),
        sending(sidecar.http_port, test, PEOPLE, pace_s=0.8),
    ):
        threading.Event().wait(USUAL_S)
        attacked_s = time.time()
        with (
            sending(sidecar.http_port, attacks, ATTACKERS, pace_s=0.4),
            sending(sidecar.http_port, probes, PROBER, pace_s=0.3),
        ):
            threading.Event().wait(ATTACK_S)
            yield Watched(prometheus, attacked_s - BENIGN_S, attacked_s, time.time())


def main() -> None:
    """Draw each dashboard, and say what shows nothing."""
    mpl.use("Agg")
    IMAGES.mkdir(exist_ok=True)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        watched = stack.enter_context(watch(*stack.enter_context(guarded(folder)), folder))
        for path in DASHBOARDS:
            figure, empty = draw(json.loads(path.read_text()), watched)
            figure.savefig(IMAGES / f"{path.stem}.png")
            print(f"docs/images/{path.stem}.png; without data: {', '.join(empty) or 'none'}")  # noqa: T201 - its answer


if __name__ == "__main__":
    main()
