"""The dashboards' panels as pictures: a real Prometheus reads a real Guard and Triton, benign traffic, then attack.

`make panels` writes docs/images/. There is no Grafana here, so each panel's expressions are evaluated by Prometheus,
and drawn where the dashboard has the panel. Time is divided by ten, as in `make ops-test`.
"""

from __future__ import annotations

import json
import logging
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
import structlog
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from guard.app import Sidecar
from guard.config import Listen, ModelPolicy
from guard.profile import store
from guard.recording import Audit
from guard.values import Mode
from tests.ops.traffic import sending
from tests.ops.watchers import HURRY, Prometheus, watching
from tests.support import digits
from tests.support.loop import LoopThread
from tests.support.profiles import digits_profile
from tests.support.sidecars import running, settings, wait_until
from tests.support.triton import Triton

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "docs" / "images"
DASHBOARDS = sorted((ROOT / "deploy" / "grafana").glob("*.json"))
PEOPLE = [f"127.0.0.{number}" for number in range(10, 18)]
ATTACKERS = [f"127.0.1.{number}" for number in range(10, 14)]
PROBER = ["127.0.1.20"]
BENIGN_S, ATTACK_S = 90.0, 75.0
STEP_S = 1
_COLUMNS, _ROW_PX, _COLUMN_PX, _DPI = 24, 34, 58, 100
_MOST_LEGENDS = 10
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

    def lines(self, target: dict[str, Any]) -> Iterator[Line]:
        """The series of an expression, over the whole time."""
        expression = target["expr"]
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
        axes.set_axis_off()
        for index, line in enumerate(shown):
            text = f"{line.legend}  {_unit(line.values[-1], unit)}".strip()
            axes.text(0.5, 1 - (index + 0.5) / len(shown), text, size=15, ha="center", va="center")
        return bool(shown)
    axes.tick_params(labelsize=6)
    axes.set_xlim(0, watched.ended_s - watched.began_s)
    axes.axvline(watched.attacked_s - watched.began_s, linestyle=":", color="red", linewidth=1)
    if panel["type"] == "heatmap":
        _heatmap(axes, shown)
    else:
        _timeseries(axes, shown, unit)
    return bool(shown)


def _timeseries(axes: Axes, shown: list[Line], unit: str) -> None:
    for line in shown:
        axes.plot(line.times_s, line.values, linewidth=1, label=line.legend)
    if shown:
        axes.set_ylim(bottom=min(0.0, *(np.nanmin(line.values) for line in shown if np.isfinite(line.values).any())))
    axes.yaxis.set_major_formatter(lambda value, _: _unit(value, unit))
    axes.grid(alpha=0.3)
    if len(shown) > _MOST_LEGENDS:
        axes.text(0.99, 0.95, f"{len(shown)} series", transform=axes.transAxes, size=6, ha="right", va="top")
    axes.legend(*_named(axes), fontsize=6, loc="upper center", bbox_to_anchor=(0.5, -0.1), frameon=False, ncols=5)


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
def guarded(folder: Path) -> Iterator[tuple[Sidecar, Triton]]:
    """A ready Guard that rejects, with an audit log, in front of a real Triton."""
    store.save(digits_profile(), folder / "profile")
    (folder / "names").write_bytes(b"n" * 32)
    policy = ModelPolicy(
        profile=folder / "profile",
        model=digits.onnx_file(),
        mode=Mode.ENFORCE,
        false_positive_rate=0.02,
        screening_budget_s=30.0,
        self_test_interval_s=10.0,
    )
    listen = Listen(address="127.0.0.1:0", admin_address="127.0.0.1:0", http_address="127.0.0.1:0")
    audit = Audit(folder=folder / "log", pseudonym_key_file=folder / "names")
    triton = Triton(folder, name="digits", onnx=digits.onnx_file())
    triton.start()
    try:
        given = settings(triton.address, {"digits": policy}, listen=listen, audit=audit)
        with LoopThread() as loop, running(loop, Sidecar(given)) as sidecar:
            wait_until(sidecar)
            yield sidecar, triton
    finally:
        triton.stop()


@contextmanager
def watch(sidecar: Sidecar, triton: Triton, folder: Path) -> Iterator[Watched]:
    """Benign traffic, then an attack with perturbed inputs and one that probes around an input."""
    test, labels = digits.load_data().test
    attacks = digits.attack(digits.trained_network(), test, labels)
    rng = np.random.default_rng(0)
    probes = np.clip(test[:1] + rng.normal(0, 0.004, (400, *test.shape[1:])), 0, 1).astype(np.float32)
    with watching(folder, sidecar.admin_port, overhead_limit_s=0.025, triton=triton.metrics_address) as (prometheus, _):
        began_s = time.time()
        with sending(sidecar.http_port, test, PEOPLE, pace_s=0.8):
            threading.Event().wait(BENIGN_S)
            attacked_s = time.time()
            with (
                sending(sidecar.http_port, attacks, ATTACKERS, pace_s=0.4),
                sending(sidecar.http_port, probes, PROBER, pace_s=0.3),
            ):
                threading.Event().wait(ATTACK_S)
                yield Watched(prometheus, began_s, attacked_s, time.time())


def main() -> None:
    """Draw each dashboard, and say what shows nothing."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
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
