"""What a benchmark row is, and the ways to show rows: JSON, Markdown, a chart."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

_PACKAGES = ("numpy", "torch", "onnxruntime", "scipy", "adversarial-robustness-toolbox")


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison: a ratio, the target it should hold, the spread over rounds, and what went into it."""

    number: int
    compare: str
    model: str
    measured: float
    low: float
    high: float
    target: float
    better: Literal["at least", "at most"]
    detail: str

    @property
    def holds(self) -> bool:
        """Whether the measured ratio meets the target."""
        return self.measured >= self.target if self.better == "at least" else self.measured <= self.target


def machine(module: str) -> dict[str, str]:
    """What the figures were measured with."""
    names = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    return {
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": f"{len(names)} x {names[0]}" if names else platform.processor(),
        "python": platform.python_version(),
        **{name: version(name) for name in _PACKAGES},
        "command": " ".join(["python", "-m", module, *sys.argv[1:]]),
    }


def write(rows: Sequence[Row], folder: Path) -> None:
    """Write engine.json, engine.md and engine.png."""
    folder.mkdir(parents=True, exist_ok=True)
    about = machine("benchmarks.engine")
    shown = [{**asdict(row), "holds": row.holds} for row in rows]
    (folder / "engine.json").write_text(json.dumps({"about": about, "rows": shown}, indent=1) + "\n")
    (folder / "engine.md").write_text(markdown(rows, about))
    _chart(rows, folder / "engine.png")


def kept(folder: Path, measured: Collection[int]) -> list[Row]:
    """Rows of the last table there, but for those that were measured anew."""
    try:
        last = json.loads((folder / "engine.json").read_text())["rows"]
    except FileNotFoundError:
        return []
    names = [field.name for field in fields(Row)]
    return [Row(**{name: row[name] for name in names}) for row in last if row["number"] not in measured]


def markdown(rows: Sequence[Row], about: dict[str, str]) -> str:
    """The table for people."""
    lines = [
        "# The screening engine beside its references",
        "",
        "Ratios, the two sides of each in turns; the median over rounds, and the least and largest round.",
        "All rows are of one run, but for those that the command names with --only, which were measured again.",
        "",
        "| # | compare | model | target | measured | rounds | holds | on what |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        sign = ">=" if row.better == "at least" else "<="
        lines.append(
            f"| {row.number} | {row.compare} | {row.model} | {sign} {row.target:g} | {row.measured:.3g} | "
            f"{row.low:.3g} to {row.high:.3g} | {'yes' if row.holds else '**no**'} | {row.detail} |"
        )
    lines += ["", *(f"- {name}: {value}" for name, value in about.items()), ""]
    return "\n".join(lines)


def _chart(rows: Sequence[Row], path: Path) -> None:
    """Measured against target, so that every bar past the line holds, whichever way its ratio counts."""
    margins = [row.measured / row.target if row.better == "at least" else row.target / row.measured for row in rows]
    figure, axes = plt.subplots(figsize=(9, 0.36 * len(rows) + 1.4), layout="constrained")
    places = range(len(rows))
    axes.barh(places, margins, color=["#2a7f62" if row.holds else "#b5483a" for row in rows])
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log")
    axes.set_yticks(places, [f"{row.number}  {row.compare}, {row.model}" for row in rows], fontsize=8)
    axes.invert_yaxis()
    for place, row, margin in zip(places, rows, margins, strict=True):
        axes.text(margin, place, f" {row.measured:.3g}", va="center", fontsize=8)
    axes.set_xlabel("measured against target (right of the line: holds)")
    axes.margins(x=0.12, y=0.01)
    figure.savefig(path, dpi=120)
    plt.close(figure)
