"""The table as a picture: each row's runs against its target."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

from benchmarks.engine.table import Row

_TICKS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5)
_HOLDS, _MISSES = "#2a7f62", "#b5483a"
_ROOM = 1.15


def margins(row: Row) -> list[float]:
    """Each run against the target, so that 1 and above holds, whichever way the ratio counts."""
    runs = row.runs or (row.measured,)
    return [run / row.target if row.better == "at least" else row.target / run for run in runs]


def draw(rows: Sequence[Row], path: Path) -> None:
    """A bar a row, as long as its worst run, and a dot a run: a bar reaches the line if and only if the row holds."""
    figure, axes = plt.subplots(figsize=(12, 0.36 * len(rows) + 1.6), layout="constrained")
    places = range(len(rows))
    every = [margin for row in rows for margin in margins(row)]
    axes.set_xscale("log")
    axes.set_xlim(min([*every, 0.5]) / _ROOM, max([*every, 1.5]) * _ROOM)
    axes.barh(places, [min(margins(row)) for row in rows], color=[_HOLDS if row.holds else _MISSES for row in rows])
    for place, row in zip(places, rows, strict=True):
        found = margins(row)
        axes.scatter(found, [place] * len(found), s=22, color="white", edgecolor="black", linewidth=0.8, zorder=3)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_yticks(places, [f"{row.number}  {row.compare}, {row.model}" for row in rows], fontsize=8)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    beside = axes.secondary_yaxis("right")
    beside.set_yticks(places, [_words(row) for row in rows], fontsize=8)
    beside.tick_params(length=0)
    axes.xaxis.set_major_locator(FixedLocator(_TICKS))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("measured against target: a dot is a run; the bar, the worst, reaches 1 where the row holds")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _words(row: Row) -> str:
    runs = ", ".join(f"{run:.3g}" for run in row.runs or (row.measured,))
    return f"{runs}   ({row.sign} {row.target:g})"
