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
    replica: str = ""
    target: float | None = None
    better: Literal["at least", "at most"] = "at least"
    detail: str = ""

    @property
    def holds(self) -> bool | None:
        """Whether the target is met; None where there is none."""
        if self.target is None:
            return None
        return self.median >= self.target if self.better == "at least" else self.median <= self.target


@dataclass(frozen=True, slots=True)
class Missing:
    """What was not measured, and why."""

    model: str
    replica: str
    reason: str


def write(figures: Sequence[Figure], missing: Sequence[Missing], about: Mapping[str, str], folder: Path) -> None:
    """Write gpu.json and gpu.md."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{**asdict(figure), "holds": figure.holds} for figure in figures]
    found = {"about": about, "figures": rows, "missing": [asdict(each) for each in missing]}
    (folder / "gpu.json").write_text(json.dumps(found, indent=1) + "\n")
    lines = [
        "# The screening engine on a GPU",
        "",
        "The median over rounds, and the least and largest round. ONNX Runtime is what a policy with `device: cuda`",
        "serves with, input and output bound once for each bucket; torch runs its buckets as CUDA graphs.",
        "",
        "| model | replica | measure | measured | rounds | target | holds | on what |",
        "| --- " * 8 + "|",
    ]
    lines += [f"| {each.model} | {each.replica} | **not measured** | | | | | {each.reason} |" for each in missing]
    lines += [_line(figure) for figure in figures]
    lines += ["", *(f"- {name}: {value}" for name, value in about.items()), ""]
    (folder / "gpu.md").write_text("\n".join(lines))


def _line(f: Figure) -> str:
    target = "" if f.target is None else f"{'>=' if f.better == 'at least' else '<='} {f.target:g}"
    holds = {None: "", True: "yes", False: "**no**"}[f.holds]
    measured = f"{f.median:.4g} | {f.low:.4g} to {f.high:.4g}"
    return f"| {f.model} | {f.replica} | {f.measure} | {measured} | {target} | {holds} | {f.detail} |"
