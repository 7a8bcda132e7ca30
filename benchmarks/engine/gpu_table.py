"""What a figure measured on a GPU is, and how figures are written down."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured figure: the median, least and largest over rounds, and the target if there is one."""

    model: str
    measure: str
    median: float
    low: float
    high: float
    target: float | None = None
    better: Literal["at least", "at most"] = "at least"
    detail: str = ""

    @property
    def holds(self) -> bool | None:
        """Whether the target is met; None where there is none."""
        if self.target is None:
            return None
        return self.median >= self.target if self.better == "at least" else self.median <= self.target


def write(figures: Sequence[Figure], about: Mapping[str, str], folder: Path) -> None:
    """Write gpu.json and gpu.md."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{**asdict(figure), "holds": figure.holds} for figure in figures]
    (folder / "gpu.json").write_text(json.dumps({"about": about, "figures": rows}, indent=1) + "\n")
    lines = ["# The screening engine on a GPU", "", "The median over rounds, and the least and largest round.", ""]
    lines += ["| model | measure | measured | rounds | target | holds | on what |", "| --- " * 7 + "|"]
    for f in figures:
        target = "" if f.target is None else f"{'>=' if f.better == 'at least' else '<='} {f.target:g}"
        holds = {None: "", True: "yes", False: "**no**"}[f.holds]
        measured = f"{f.median:.4g} | {f.low:.4g} to {f.high:.4g}"
        lines.append(f"| {f.model} | {f.measure} | {measured} | {target} | {holds} | {f.detail} |")
    lines += ["", *(f"- {name}: {value}" for name, value in about.items()), ""]
    (folder / "gpu.md").write_text("\n".join(lines))
