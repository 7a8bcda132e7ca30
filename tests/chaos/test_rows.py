"""The short form of each row of `make chaos`, by the same code. What is timed is left to the long form."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
import typer

from benchmarks.chaos import __main__ as command
from benchmarks.chaos.house import House, house
from benchmarks.chaos.rows import ELSEWHERE, ROWS
from benchmarks.chaos.soak import Watched
from benchmarks.chaos.table import Check, Impossible, Result, Row, write

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A Triton, and what Guards before it need."""
    with house(tmp_path_factory.mktemp("chaos")) as it:
        yield it


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_row(made: House, row: Row) -> None:
    """Guard bears the fault, briefly."""
    made.triton.ensure_running()
    try:
        checks = asyncio.run(row.run(made, row.short))
    except Impossible as why:
        pytest.skip(str(why))
    assert [str(check) for check in checks if not (check.holds or check.timed)] == []


def test_main(made: House, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The command runs the rows that are named, and writes them down; its exit code says whether they held."""
    monkeypatch.setattr(command, "house", lambda _: nullcontext(made))
    with pytest.raises(typer.Exit) as ended:
        command.main([ROWS[0].name], tmp_path, quick=True)
    found = json.loads((tmp_path / "chaos.json").read_text())["rows"]
    assert {name: row["held"] for name, row in found.items()} == {ROWS[0].name: ended.value.exit_code == 0}
    with pytest.raises(typer.BadParameter, match="there is no row rain"):
        command.main(["rain"], tmp_path)


def test_a_leak_shows() -> None:
    """Memory that grows by ten megabytes an hour has that slope, whatever the warm-up did; more files show too."""
    watched = Watched()
    for second in range(1800):
        watched.at_s.append(float(second))
        watched.rss_mb.append(500 + min(second, 300) / 10 + 10 * second / 3600 + (0.3 if second % 7 else -0.3))
        watched.fds.append(40 + second // 100)
    assert watched.slope_mb_per_h() == pytest.approx(10, abs=0.5)
    assert watched.more_fds() > 8


def test_results(tmp_path: Path) -> None:
    """A miss is shown as one, rows that were not run keep what they showed, and those never run say so."""
    first, second = ROWS[0].name, ROWS[1].name
    missed = Result(first, 10, 1.0, (Check("requests lost", 3, "=", 0),), "today", "abc", 0.5)
    held = Result(second, 10, 1.0, (Check("wait", 3.25, "<=", 1000, "ms", timed=True),), "today", "abc", 0.5)
    write(ROWS, ELSEWHERE, {first: missed}, {"machine": "this"}, tmp_path)
    write(ROWS, ELSEWHERE, {second: held}, {"machine": "this"}, tmp_path)
    shown = (tmp_path / "chaos.md").read_text()
    assert "| **missed:** requests lost 3 (= 0) | **no** | 10 of 10 restarts, today, `abc`, load 0.5 |" in shown
    assert "| wait 3.25 (<= 1000 ms) | yes |" in shown
    assert shown.count("| not run |") == len(ROWS) - 2
    found = json.loads((tmp_path / "chaos.json").read_text())["rows"]
    assert (found[first]["held"], found[second]["held"]) == (False, True)


def test_elsewhere() -> None:
    """What is said to be tried elsewhere names files that are there."""
    named = [word.strip("`,;") for each in ELSEWHERE for word in each.where.split() if word.startswith("tests/")]
    assert named
    assert [name for name in named if not (ROOT / name).is_file()] == []
