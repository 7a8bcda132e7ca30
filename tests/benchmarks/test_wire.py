"""The wire's benchmark in small: real processes, a few requests, and what is written of them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.wire import table
from benchmarks.wire.measure import Cell, cpu_s, load
from benchmarks.wire.parts import Variant
from benchmarks.wire.steps import STEPS

ROOT = Path(__file__).parents[2]


def cell(variant: str, *, number: int = 0, p50_s: float = 1e-3, cpu_s: float | None = 1e-3) -> Cell:
    """A cell of one round."""
    return Cell(number, "3 KB", 1, variant, 10, 0, "", 1 / p50_s, p50_s, 2 * p50_s, cpu_s)


def test_steps() -> None:
    """Each step between the bare proxy and Guard carries requests, and costs something."""
    command = [sys.executable, "-m", "benchmarks.wire.steps", "--rounds", "1", "--requests", "8"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.split(" | ") for line in done.stdout.splitlines() if " us | " in line]
    assert {name for _, name, _, _ in lines} == {table.FLOOR, *STEPS, table.OFF}
    assert all(int(spent.removesuffix(" us")) > 0 for _, _, spent, _ in lines)


def test_quick(tmp_path: Path) -> None:
    """`--quick` measures every variant that is installed, without a failed request, and writes tables and a chart."""
    command = [sys.executable, "-m", "benchmarks.wire", "--quick", "--out", tmp_path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "wire.json").read_text())
    measured = {line["variant"]: line for line in found["medians"]}
    always = {table.DIRECT, table.FLOOR, table.OFF, table.SHADOW, table.ENFORCE, table.REST}
    native = {"nginx", "Envoy", "Envoy mirrors to Guard", "Envoy asks Guard, off", "Envoy asks Guard, enforce"}
    assert set(measured) - native == always
    assert len(measured) + sum(name.startswith("left out") for name in found["about"]) == len(always | native)
    assert not any(line["failed"] for line in found["medians"])
    assert all(line["cpu_us"] > 0 for name, line in measured.items() if name != table.DIRECT)
    assert {row["number"] for row in found["targets"]} == {1, 2, 3}
    assert (tmp_path / "wire.png").stat().st_size > 1000
    assert "| 3 KB | 1 | direct | 1.00 |" in (tmp_path / "wire.md").read_text()


def test_failures_count() -> None:
    """An address where nobody answers is not measured, and the load says so."""
    with load() as sends, pytest.raises(RuntimeError, match=r"nobody.*did not begin"):
        sends.run(Variant("nobody", "http", "127.0.0.1:1"), ROOT / "Makefile", 1, 1, of=(0, ""))


def test_cpu() -> None:
    """The CPU of a process is that of all its threads, those that ended too, and nothing while it sleeps."""
    busy = (
        "import threading as t\nw = t.Thread(target=lambda: sum(range(10**7)))\nw.start(), w.join(), print(), input()"
    )
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", busy], stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        before_s = cpu_s([process.pid])
        assert before_s > 0.05
        assert cpu_s([process.pid]) - before_s < 0.05
        process.kill()


def test_targets() -> None:
    """A row is the median of ratios within rounds, so that a slow round does not count against one side."""
    slow = {"p50_s": 0.1, "cpu_s": 0.1}
    sides = {table.FLOOR: 1.0, table.OFF: 1.05, table.SHADOW: 1.2, table.REST: 1.4, table.DIRECT: 1.0}
    cells = [
        replace(made, p50_s=made.p50_s * factor, cpu_s=(made.cpu_s or 0) * factor)
        for name, factor in sides.items()
        for made in (cell(name), cell(name, number=1, **slow), cell(name, number=2))
    ]
    off, shadow, rest = table.rows(cells)
    assert (off.measured, off.low, off.high, off.holds) == (pytest.approx(1.05), *[pytest.approx(1.05)] * 2, True)
    assert shadow.measured == pytest.approx(1.2 / 1.05)
    assert not shadow.holds
    assert rest.measured == pytest.approx(1.4 / 1.05)
    assert rest.holds


def test_relative() -> None:
    """Throughput is shown by that of direct in the same round; of what has no proxy no CPU is shown."""
    cells = [cell("direct", cpu_s=None), cell("nginx", p50_s=2e-3)]
    direct, nginx = table.shown(cells)
    assert (direct.relative, nginx.relative, direct.cpu_us) == (1.0, pytest.approx(0.5), None)
    assert re.search(r"\| nginx \| 0.50 \|", table.markdown(table.rows(cells), [direct, nginx], {}))
