"""What a benchmark row is, and the ways to write rows down: JSON and Markdown."""

from __future__ import annotations

import json
import platform
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Literal, TypeAlias

from benchmarks.engine.reasons import reason

_PACKAGES = ("numpy", "torch", "onnxruntime", "scipy", "adversarial-robustness-toolbox")


Better: TypeAlias = Literal["at least", "at most"]


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison: a ratio, the target it should hold, the spread over rounds, and what went into it.

    `ceiling` is the ratio if Guard's evaluations, on one thread, were all that a request takes: beyond it only fewer or
    faster evaluations help. After several runs, `measured` is their median and `runs` has each.
    """

    number: int
    compare: str
    model: str
    measured: float
    low: float
    high: float
    target: float
    better: Better
    detail: str
    ceiling: float | None = None
    runs: tuple[float, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether the target is met, in every run."""
        runs = self.runs or (self.measured,)
        return min(runs) >= self.target if self.better == "at least" else max(runs) <= self.target

    @property
    def sign(self) -> str:
        """How measured and target should compare."""
        return ">=" if self.better == "at least" else "<="


def merged(runs: Sequence[Sequence[Row]]) -> list[Row]:
    """One row a comparison, from as many runs; what it says of the work is the first run's."""
    together: dict[tuple[int, str, str], list[Row]] = {}
    for row in (row for run in runs for row in run):
        together.setdefault((row.number, row.compare, row.model), []).append(row)
    return sorted((_merged(rows) for rows in together.values()), key=lambda row: row.number)


def _merged(rows: Sequence[Row]) -> Row:
    ceilings = [row.ceiling for row in rows if row.ceiling is not None]
    return replace(
        rows[0],
        measured=statistics.median(row.measured for row in rows),
        low=min(row.low for row in rows),
        high=max(row.high for row in rows),
        ceiling=statistics.median(ceilings) if ceilings else None,
        runs=tuple(row.measured for row in rows),
    )


def machine(module: str) -> dict[str, str]:
    """What the figures were measured with."""
    names = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    return {
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "processor": f"{len(names)} x {names[0]}" if names else platform.processor(),
        "python": platform.python_version(),
        **{name: version(name) for name in _PACKAGES},
        "command": " ".join(["python", "-m", module, *sys.argv[1:]]),
    }


def commit() -> str:
    """The commit that is checked out, and whether files differ from it."""
    git = shutil.which("git")
    if git is None:
        return "unknown"
    found = subprocess.run(  # noqa: S603 - no part of it comes from elsewhere
        [git, "describe", "--always", "--dirty", "--abbrev=12"], capture_output=True, text=True, check=False
    )
    return found.stdout.strip() or "unknown"


def write(rows: Sequence[Row], folder: Path, about: dict[str, str]) -> None:
    """Write engine.json and engine.md. `about` is what the figures were measured with."""
    folder.mkdir(parents=True, exist_ok=True)
    shown = [{**asdict(row), "holds": row.holds, "reason": _reason(row)} for row in rows]
    (folder / "engine.json").write_text(json.dumps({"about": about, "rows": shown}, indent=1) + "\n")
    (folder / "engine.md").write_text(markdown(rows, about))


def _reason(row: Row) -> str | None:
    return None if row.holds else reason(row.number, row.model)


def markdown(rows: Sequence[Row], about: dict[str, str]) -> str:
    """The table for people."""
    lines = [
        "# The screening engine beside its references",
        "",
        "Ratios, the two sides of each in turns: the median of a run's rounds (rows 2 to 6: of their sums), run after",
        "run. A row holds if every run does. *From evaluations* is about the ratio if Guard's evaluations, in full",
        "batches on one thread, were all that a request takes, by what one took beside each round: where it is below",
        "the target, only fewer or faster evaluations could reach it. The models run on one thread, on both sides;",
        "Guard makes its copies on a second one meanwhile. What a row says of its work is the first run's.",
        "Rows 2 to 7 compare two runtimes as well: the references run in PyTorch, as published, Guard in ONNX Runtime.",
        "Row 4, where both make as many evaluations in full batches, shows by how much.",
        "",
        "| # | compare | model | target | measured | from evaluations | rounds | holds | on what |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        runs = ", ".join(f"{run:.3g}" for run in row.runs or (row.measured,))
        ceiling = "" if row.ceiling is None else f"{row.ceiling:.3g}"
        lines.append(
            f"| {row.number} | {row.compare} | {row.model} | {row.sign} {row.target:g} | {runs} | {ceiling} | "
            f"{row.low:.3g} to {row.high:.3g} | {'yes' if row.holds else '**no**'} | {row.detail} |"
        )
    failed = {
        f"- Row {row.number}, {row.model}. {reason(row.number, row.model)}": None for row in rows if not row.holds
    }
    if failed:
        lines += ["", "## Why rows do not hold, on the machine of the committed table", "", *failed]
    lines += ["", "## Measured with", "", *(f"- {name}: {value}" for name, value in about.items()), ""]
    return "\n".join(lines)
