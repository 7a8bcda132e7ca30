"""What was measured, against the targets and beside each other: JSON, Markdown, a chart."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

from benchmarks.engine.table import Row
from benchmarks.wire.measure import Cell

DIRECT, FLOOR, OFF, SHADOW, ENFORCE = "direct", "pass-through", "Guard, off", "Guard, shadow", "Guard, enforce"
REST = "Guard over REST, off"
_OFF_TARGETS = {"3 KB": 1.10, "150 KB": 1.10, "600 KB": 1.20, "9.6 MB": 1.20}
_SHADOW_TARGET, _REST_TARGET = 1.10, 1.50
_COLOURS = (
    *("#444444", "#8d6cab", "#4c9f70", "#d9822b", "#1f77b4", "#17becf", "#c0392b", "#7f8c8d"),
    *("#e377c2", "#bcbd22", "#8c564b"),
)


@dataclass(frozen=True, slots=True)
class Shown:
    """A variant's medians over rounds. `relative` is its throughput by that of direct, in the same round."""

    payload: str
    concurrency: int
    variant: str
    relative: float
    low: float
    high: float
    per_s: float
    p50_ms: float
    p99_ms: float
    cpu_us: float | None
    failed: int


def rows(cells: Sequence[Cell]) -> list[Row]:
    """The targets. CPU is that of all concurrencies together; p50 is told for each."""
    found = []
    for payload in dict.fromkeys(cell.payload for cell in cells):
        of = [cell for cell in cells if cell.payload == payload]
        cpu = _ratios(of, OFF, FLOOR, _cpu)
        found.append(_row(1, "CPU, Guard off / pass-through", payload, cpu, _OFF_TARGETS[payload]))
        for concurrency in dict.fromkeys(cell.concurrency for cell in of):
            alike = [cell for cell in of if cell.concurrency == concurrency]
            name = f"p50 at {concurrency}, shadow / off"
            found.append(_row(2, name, payload, _ratios(alike, SHADOW, OFF, _p50), _SHADOW_TARGET))
        found.append(_row(3, "CPU, REST / gRPC, Guard off", payload, _ratios(of, REST, OFF, _cpu), _REST_TARGET))
    return sorted(found, key=lambda row: row.number)


def shown(cells: Sequence[Cell]) -> list[Shown]:
    """One line for each payload, concurrency and variant, in the order of the first cells."""
    order = [list(dict.fromkeys(each)) for each in ([c.payload for c in cells], [c.variant for c in cells])]
    direct = {(c.round, c.payload, c.concurrency): c.per_s for c in cells if c.variant == DIRECT}
    lines = [_shown(group, direct) for group in _grouped(cells, lambda c: (c.payload, c.concurrency, c.variant))]
    return sorted(lines, key=lambda s: (order[0].index(s.payload), s.concurrency, order[1].index(s.variant)))


def write(cells: Sequence[Cell], folder: Path, about: Mapping[str, str]) -> None:
    """Write wire.json, wire.md and wire.png. `about` is what the figures were measured with."""
    folder.mkdir(parents=True, exist_ok=True)
    targets, lines = rows(cells), shown(cells)
    found = {
        "about": about,
        "targets": [{**asdict(row), "holds": row.holds} for row in targets],
        "medians": [asdict(line) for line in lines],
        "cells": [asdict(cell) for cell in cells],
    }
    (folder / "wire.json").write_text(json.dumps(found, indent=1) + "\n")
    (folder / "wire.md").write_text(markdown(targets, lines, about))
    chart(lines, folder / "wire.png")


def markdown(targets: Sequence[Row], lines: Sequence[Shown], about: Mapping[str, str]) -> str:
    """The tables for people."""
    text = [
        "# The wire beside other proxies",
        "",
        "Requests in a closed loop against a real Triton, variants in turns within each round, all on one machine, so",
        "that client, proxy and server share its processors. Ratios are of one round; medians over rounds are shown,",
        "and the least and largest round. CPU is that of the proxy's process for a request, its screening included;",
        "where Envoy asks Guard or mirrors to it, that of both.",
        "In shadow mode Guard leaves unscreened what it has no time for; in enforce mode it screens every request.",
        "",
        "| # | compare | payload | target | measured | rounds | holds |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    text += [
        f"| {row.number} | {row.compare} | {row.model} | {row.sign} {row.target:g} | {row.measured:.3g} | "
        f"{row.low:.3g} to {row.high:.3g} | {'yes' if row.holds else '**no**'} |"
        for row in targets
    ]
    text += [
        "",
        "| payload | at once | variant | throughput of direct | rounds | requests/s | p50 ms | p99 ms | CPU us |",
    ]
    text.append("| --- " * 9 + "|")
    for line in lines:
        cpu = "" if line.cpu_us is None else f"{line.cpu_us:.0f}"
        failed = f" ({line.failed} failed)" if line.failed else ""
        text.append(
            f"| {line.payload} | {line.concurrency} | {line.variant}{failed} | {line.relative:.2f} | {line.low:.2f} to "
            f"{line.high:.2f} | {line.per_s:.4g} | {line.p50_ms:.3g} | {line.p99_ms:.3g} | {cpu} |"
        )
    text += ["", "## Measured with", "", *(f"- {name}: {value}" for name, value in about.items()), ""]
    return "\n".join(text)


def chart(lines: Sequence[Shown], path: Path) -> None:
    """Throughput and CPU by payload, side by side for each concurrency."""
    concurrencies = list(dict.fromkeys(line.concurrency for line in lines))
    payloads = list(dict.fromkeys(line.payload for line in lines))
    figure, axes = plt.subplots(
        2, len(concurrencies), figsize=(4 * len(concurrencies), 6.4), sharey="row", squeeze=False, layout="constrained"
    )
    names = list(dict.fromkeys(line.variant for line in lines))
    for column, concurrency in enumerate(concurrencies):
        above, below = axes[0][column], axes[1][column]
        for name, colour in zip(names, _COLOURS, strict=False):
            own = {s.payload: s for s in lines if s.variant == name and s.concurrency == concurrency}
            at = [payload for payload in payloads if payload in own]
            above.plot(at, [own[payload].relative for payload in at], "o-", color=colour, label=name, markersize=4)
            cpu = [own[payload].cpu_us for payload in at]
            if None not in cpu:
                below.plot(at, cpu, "o-", color=colour, markersize=4)
        above.set_title(f"{concurrency} at once")
        below.set_yscale("log")
    axes[0][0].set_ylabel("throughput, direct = 1")
    axes[1][0].set_ylabel("proxy CPU a request, us")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _row(number: int, compare: str, payload: str, found: Sequence[float], target: float) -> Row:
    found = found or (math.nan,)
    detail = f"{len(found)} ratios"
    return Row(number, compare, payload, statistics.median(found), min(found), max(found), target, "at most", detail)


def _ratios(cells: Sequence[Cell], above: str, below: str, figure: Callable[[Sequence[Cell]], float]) -> list[float]:
    """A variant's figure by another's, round by round."""
    found = []
    for group in _grouped(cells, lambda c: (c.round,)):
        sides = [[cell for cell in group if cell.variant == name] for name in (above, below)]
        if all(sides):
            found.append(figure(sides[0]) / figure(sides[1]))
    return found


def _cpu(cells: Sequence[Cell]) -> float:
    """Geometric mean over concurrencies, so that each counts alike."""
    return statistics.geometric_mean(cell.cpu_s or math.nan for cell in cells)


def _p50(cells: Sequence[Cell]) -> float:
    return statistics.median(cell.p50_s for cell in cells)


def _shown(group: Sequence[Cell], direct: Mapping[tuple[int, str, int], float]) -> Shown:
    first = group[0]
    relative = [cell.per_s / direct[cell.round, cell.payload, cell.concurrency] for cell in group]
    spent = [cell.cpu_s for cell in group if cell.cpu_s is not None]
    return Shown(
        first.payload,
        first.concurrency,
        first.variant,
        statistics.median(relative),
        min(relative),
        max(relative),
        statistics.median(cell.per_s for cell in group),
        1e3 * statistics.median(cell.p50_s for cell in group),
        1e3 * statistics.median(cell.p99_s for cell in group),
        1e6 * statistics.median(spent) if spent else None,
        sum(cell.failed for cell in group),
    )


def _grouped(cells: Sequence[Cell], key: Callable[[Cell], tuple[object, ...]]) -> list[list[Cell]]:
    groups: dict[tuple[object, ...], list[Cell]] = {}
    for cell in cells:
        groups.setdefault(key(cell), []).append(cell)
    return list(groups.values())
