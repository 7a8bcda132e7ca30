"""The report's plots, as SVG that takes the page's own colours and fonts, so that they read in light and dark."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from guard.offline.evaluate.results import Count, Evaluation, Worst

_TEXT = "#010203"  # replaced by the page's own colour
_COLOURS = ("#2a7fb8", "#d9822b")
_GREY = "#888888"
_KINDS = ("#2a7fb8", "#d9822b", "#4c9a52", "#a05fb4", "#c44e52")
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "guard",
    "text.color": _TEXT,
    "axes.labelcolor": _TEXT,
    "axes.edgecolor": _GREY,
    "xtick.color": _TEXT,
    "ytick.color": _TEXT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "font.size": 10,
    "legend.frameon": False,
}
_WIDTH_IN = 5.2


@mpl.rc_context(_STYLE)
def caught(evaluation: Evaluation) -> str:
    """The share caught of each attack that succeeded, with its interval, at each rate."""
    rows = [row for row in evaluation.attacks if row.succeeded.count]
    figure = _figure(0.9 + 0.23 * len(rows))
    axis = figure.subplots()
    places = range(len(rows), 0, -1)
    for index, rate in enumerate(evaluation.rates[: len(_COLOURS)]):
        shift = 0.15 if index == 0 else -0.15
        for place, row in zip(places, rows, strict=True):
            label = f"at {rate:g}" if place == len(rows) else None
            _interval(axis, row.caught[rate], place + shift, _COLOURS[index], label)
    axis.set_yticks(list(places), [row.attack.title for row in rows], fontsize=9)
    axis.set_xlim(-0.02, 1.02)
    axis.set_ylim(0.3, len(rows) + 0.7)
    axis.grid(axis="x", color=_GREY, alpha=0.3)
    axis.set_xlabel("share caught, 95 % interval")
    figure.legend(loc="outside upper right", ncols=2, fontsize=9)
    return _svg(figure, "caught")


@mpl.rc_context(_STYLE)
def strength(evaluation: Evaluation) -> str | None:
    """Share of images on which some attack bounded in L-inf wins, by the bound; None without such attacks."""
    bounded = [worst for worst in evaluation.worst if worst.linf is not None]
    if len(bounded) < 2:  # noqa: PLR2004 - a line has two ends
        return None
    figure = _figure(3.3)
    axis = figure.subplots()
    _line(axis, bounded, [worst.undefended for worst in bounded], _GREY, "without Guard")
    for rate, colour in zip(evaluation.rates, _COLOURS, strict=False):
        _line(axis, bounded, [worst.guarded[rate] for worst in bounded], colour, f"with Guard, at {rate:g}")
    axis.set_xscale("log")
    levels = [worst.linf or 0.0 for worst in bounded]
    axis.set_xticks(levels, [_level(level) for level in levels], fontsize=9)
    axis.minorticks_off()
    axis.set_ylim(-0.02, 1.02)
    axis.grid(color=_GREY, alpha=0.3)
    axis.set_xlabel("L-inf bound, share of the input's range")
    axis.set_ylabel("share of images lost")
    axis.legend(fontsize=9)
    return _svg(figure, "strength")


@mpl.rc_context(_STYLE)
def drift(evaluation: Evaluation) -> str:
    """False-positive rate by severity, a line a kind of drift, at the highest rate."""
    rate = evaluation.rates[0]
    figure = _figure(3.3)
    axis = figure.subplots()
    kinds = list(dict.fromkeys(cell.kind for cell in evaluation.drift))
    for kind, colour in zip(kinds, _KINDS, strict=False):
        cells = [cell for cell in evaluation.drift if cell.kind == kind]
        shares = [cell.flagged[rate].share or 0.0 for cell in cells]
        axis.plot(range(1, len(shares) + 1), shares, marker="o", markersize=4, color=colour, label=kind)
        beyond = [place for place, cell in enumerate(cells) if not cell.expected]
        x, y = [place + 1 for place in beyond], [shares[place] for place in beyond]
        axis.scatter(x, y, s=16, facecolors="white", edgecolors=colour, zorder=3)
    axis.axhline(rate, color=_GREY, linestyle="--", linewidth=1, label=f"asked, {rate:g}")
    axis.set_xticks(range(1, 6))
    axis.set_ylim(-0.02, 1.02)
    axis.grid(color=_GREY, alpha=0.3)
    axis.set_xlabel("severity, mild to strong")
    axis.set_ylabel("share of honest images flagged")
    axis.legend(fontsize=9, ncols=2)
    return _svg(figure, "drift")


def _interval(axis: Any, count: Count, place: float, colour: str, label: str | None) -> None:
    low, high = count.interval
    share = count.share or 0.0
    axis.plot([low, high], [place, place], color=colour, linewidth=1.5, alpha=0.6)
    axis.plot([share], [place], "o", color=colour, markersize=4, label=label)


def _line(axis: Any, bounded: Sequence[Worst], counts: Sequence[Count], colour: str, label: str) -> None:
    levels = [worst.linf for worst in bounded]
    axis.plot(levels, [count.share or 0.0 for count in counts], marker="o", markersize=4, color=colour, label=label)
    low, high = zip(*(count.interval for count in counts), strict=True)
    axis.fill_between(levels, low, high, color=colour, alpha=0.15, linewidth=0)


def _level(level: float) -> str:
    return f"{level * 255:.0f}/255" if level < 0.07 else f"{level:g}"  # noqa: PLR2004 - as the suite calls them


def _figure(height_in: float) -> Figure:
    figure = Figure(figsize=(_WIDTH_IN, height_in), layout="constrained")
    FigureCanvasSVG(figure)
    return figure


def _svg(figure: Figure, name: str) -> str:
    """The picture without its own background, size and metadata; its ids begin with `name`."""
    drawn = io.StringIO()
    figure.savefig(drawn, format="svg", transparent=True, metadata={"Date": None})
    text = drawn.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' width="[\d.]+pt"', "", text, count=1)
    text = re.sub(r' height="[\d.]+pt"', "", text, count=1)
    text = re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{name}-", text)
    return text.replace(_TEXT, "currentColor")
