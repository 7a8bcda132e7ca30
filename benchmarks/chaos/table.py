"""What a row of the table is, and how rows are written down."""

from __future__ import annotations

import json
import operator
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from benchmarks.chaos.house import House

Sign: TypeAlias = Literal["<=", ">=", "=", ">"]
_COMPARE: Mapping[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "=": operator.eq,
    ">": operator.gt,
}


class Impossible(Exception):
    """A row can't be run on this machine, or not by this user."""


@dataclass(frozen=True, slots=True)
class Check:
    """A figure and what it should be.

    A `timed` one says nothing in short runs, nor on a machine that does other things too: tests leave it aside.
    """

    what: str
    measured: float
    sign: Sign
    limit: float
    unit: str = ""
    timed: bool = False

    @property
    def holds(self) -> bool:
        """Whether it is."""
        return _COMPARE[self.sign](self.measured, self.limit)

    def __str__(self) -> str:
        return (
            f"{self.what} {_number(self.measured)} ({self.sign} {_number(self.limit)}{self.unit and ' ' + self.unit})"
        )


@dataclass(frozen=True, slots=True)
class Row:
    """A fault, what is expected, and what tries it, with an amount: seconds, or how many. `short` is that of tests."""

    name: str
    fault: str
    expected: str
    run: Callable[[House, float], Coroutine[Any, Any, list[Check]]]
    short: float
    long: float
    unit: str


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """A fault that another command or test tries."""

    fault: str
    expected: str
    where: str


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a row; `error` where it could not be run to its end."""

    name: str
    amount: float
    seconds: float
    checks: tuple[Check, ...]
    measured: str
    commit: str
    load: float
    error: str = ""

    @property
    def held(self) -> bool:
        """Whether all is as expected."""
        return not self.error and all(check.holds for check in self.checks)


def as_json(result: Result) -> dict[str, object]:
    """What is kept of it."""
    checks = [asdict(check) | {"holds": check.holds} for check in result.checks]
    return asdict(result) | {"checks": checks, "held": result.held}


def write(
    rows: Sequence[Row],
    elsewhere: Sequence[Elsewhere],
    new: Mapping[str, Result],
    about: Mapping[str, str],
    folder: Path,
) -> None:
    """Write chaos.json and chaos.md. Rows that were not run this time keep what they showed last."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "chaos.json"
    before = json.loads(file.read_text())["rows"] if file.exists() else {}
    found = before | {name: as_json(result) for name, result in new.items()}
    file.write_text(json.dumps({"about": dict(about), "rows": found}, indent=1) + "\n")
    lines = ["# What Guard bears", "", "Written by `make chaos`; each row says when, how long and at which commit.", ""]
    lines += [f"- {name}: {value}" for name, value in about.items()]
    lines += ["", "| fault | expected | measured | held | run |", "| --- | --- | --- | --- | --- |"]
    lines += [_line(row, found[row.name]) for row in rows if row.name in found]
    lines += [f"| {row.fault} | {row.expected} | not run | | |" for row in rows if row.name not in found]
    lines += ["", "Tried elsewhere:", "", "| fault | expected | where |", "| --- | --- | --- |"]
    lines += [f"| {each.fault} | {each.expected} | {each.where} |" for each in elsewhere]
    (folder / "chaos.md").write_text("\n".join(lines) + "\n")


def _line(row: Row, found: Mapping[str, object]) -> str:
    checks = found["checks"]
    assert isinstance(checks, list)  # noqa: S101 - as `as_json` made it
    fields = ("what", "measured", "sign", "limit", "unit", "timed")
    said = "<br>".join(
        ("" if check["holds"] else "**missed:** ") + str(Check(**{name: check[name] for name in fields}))
        for check in checks
    )
    run = f"{found['amount']:g} of {row.long:g} {row.unit}, {found['measured']}, `{found['commit']}`"
    run += f", load {found['load']:.1f}"
    told = said if not found["error"] else f"{said}<br>**failed:** {found['error']}"
    return f"| {row.fault} | {row.expected} | {told} | {'yes' if found['held'] else '**no**'} | {run} |"


def _number(number: float) -> str:
    value = float(number)
    return f"{value:.0f}" if abs(value) >= 1000 or value.is_integer() else f"{value:.3g}"  # noqa: PLR2004 - digits
