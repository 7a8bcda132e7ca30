"""The engine's benchmark in small: every row on a few random images, and what is written of them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from benchmarks.engine import certificates, clock, detectors, load, testing
from benchmarks.engine.bench import Bench, Size
from benchmarks.engine.chart import draw, margins
from benchmarks.engine.error_rates import Copies, Judged, Rule
from benchmarks.engine.subject import SIGMA, Subject
from benchmarks.engine.table import Row, machine, merged, write
from benchmarks.references import mutation_testing

SMALL = Size(engine_images=4, slow_images=1, rounds=2, judged=3)


@pytest.fixture
def bench(lenet: Subject) -> Iterator[Bench]:
    """Rows of few images."""
    made = Bench(lenet, SMALL, 0)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("measure", "numbers", "bounded"),
    [
        (testing.rho, [1, 1], False),
        (testing.sprt, [2, 2, 3, 3], True),
        (certificates.fixed, [4, 4], True),
        (certificates.sequential, [5, 5], True),
        (certificates.confidence_sequence, [6], True),
        (detectors.squeezing, [7], True),
        (detectors.network, [7], True),
        (testing.shared_stream, [8], True),
    ],
)
def test_rows(bench: Bench, measure: Callable[[Bench], Iterator[Row]], numbers: list[int], *, bounded: bool) -> None:
    """Each comparison gives its rows, with what was measured between the least and the largest round, or near them."""
    rows = list(measure(bench))
    assert [row.number for row in rows] == numbers
    for row in rows:
        assert row.model == "LeNet-5"
        assert 0 < row.low <= row.measured <= row.high < math.inf
        assert (row.ceiling is not None and row.ceiling > 0) == bounded
        assert ("flagged" in row.detail) == (measure is testing.sprt)


class Changing(nn.Module):
    """Changes its mind about a share of an input's noisy copies, and counts those that it sees."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.edge = float(stats.norm.isf(rate)) * SIGMA
        self.seen = 0

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 1) to (batch, 2)."""
        self.seen += len(x)
        return torch.cat([self.edge - x, x - self.edge], dim=1)


@pytest.mark.parametrize("rule", [mutation_testing.as_published, mutation_testing.wald_every_copy])
def test_copies_made_ahead_decide_the_same(rule: Rule) -> None:
    """A rule that is shown copies made in batches decides as one that makes them, as often over many inputs."""
    test, runs = mutation_testing.Sprt(0.2, 0.5), 200
    generator = torch.Generator().manual_seed(0)
    for rate in (0.1, 0.2):
        flags, spent = [[], []], [[], []]
        for _ in range(runs):
            x = torch.zeros(1)
            copies = Copies(Changing(rate), x, generator)
            for side, (model, start) in enumerate(((Changing(rate), x), (copies.again(), torch.zeros(1)))):
                found = rule(model, start, copies.label, test, sigma=SIGMA, generator=generator, cap=200)
                flags[side].append(found.adversarial)
                spent[side].append(found.evaluations)
        assert stats.fisher_exact([[sum(side), runs - sum(side)] for side in flags]).pvalue > 1e-4
        assert stats.mannwhitneyu(*spent).pvalue > 1e-4


def test_copies_are_kept() -> None:
    """Copies are made once for all rules, a batch at a time, and each rule begins with the first."""
    model = Changing(0.3)
    copies = Copies(model, torch.zeros(1), torch.Generator().manual_seed(0))
    assert (copies.label, model.seen) == (0, 1)
    first, again = copies.again(), copies.again()
    answers = [first(torch.zeros(1)) for _ in range(70)]
    assert model.seen == 1 + 128
    assert all(torch.equal(answer, again(torch.zeros(1))) for answer in answers)
    assert model.seen == 1 + 128


def test_error_rates_are_counted(bench: Bench) -> None:
    """How many of which images either side flags is said with intervals."""
    test = mutation_testing.Sprt(0.1, 0.5)
    found = Judged(bench).compare(mutation_testing.wald_every_copy, test, testing.sprt_design(test))
    counts = re.findall(r"(\w+) \d+ of (\d+) \[\d+%, \d+%\] benign and \d+ of (\d+) \[", found)
    attacked = str(min(SMALL.judged, len(bench.subject.attacked)))
    assert counts == [("reference", "3", attacked), ("Guard", "3", attacked)]


def test_detectors_answer_alike(bench: Bench) -> None:
    """Row 7 compares the same work: the scores of both sides are the same."""
    for measure in (detectors.squeezing, detectors.network):
        (row,) = measure(bench)
        apart = float(row.detail.split("differ by ")[1].split()[0])
        assert apart < 1e-4


def test_loads(lenet: Subject) -> None:
    """Load, echo and overload give shares and ratios."""
    rows = [*load.poisson(lenet, 0.6, 0), *load.overload(lenet, 0.6, 0), *load.echo(lenet, 1.2, 0)]
    assert [row.number for row in rows] == [9, 10, 10, 9]
    assert all(0 <= row.low <= row.measured <= row.high for row in rows)
    assert rows[0].high <= 1


def test_written(tmp_path: Path) -> None:
    """Of several runs the median counts, and a row holds only if each does; a row that does not says why."""
    first = Row(1, "rho", "LeNet-5", 1.1, 1.0, 1.3, 1.15, "at most", "some work")
    second = Row(2, "one at a time", "LeNet-5", 150.0, 120.0, 160.0, 140, "at least", "other work", 200.0)
    runs = [[first, second], [replace(first, measured=1.2), second], [replace(first, measured=1.0), second]]
    rows = merged(runs)
    assert [(row.measured, row.runs, row.holds) for row in rows] == [
        (1.1, (1.1, 1.2, 1.0), False),
        (150.0, (150.0, 150.0, 150.0), True),
    ]
    write(rows, tmp_path, machine("benchmarks.engine"))
    found = json.loads((tmp_path / "engine.json").read_text())
    assert [row["holds"] for row in found["rows"]] == [False, True]
    assert found["rows"][0]["reason"]
    assert {"commit", "processor", "torch", "command"} < found["about"].keys()
    table = (tmp_path / "engine.md").read_text()
    assert "1.1, 1.2, 1" in table
    assert "- Row 1, LeNet-5." in table
    assert "- Row 2, " not in table


def test_drawn(tmp_path: Path) -> None:
    """A row's worst run reaches its target in the picture if and only if the row holds; every row has a bar."""
    slower = Row(1, "rho", "LeNet-5", 1.1, 1.0, 1.3, 1.15, "at most", "", runs=(1.1, 1.2, 1.0))
    faster = Row(2, "one at a time", "LeNet-5", 150.0, 120.0, 160.0, 140, "at least", "", runs=(150.0, 141.0))
    rows = [slower, faster, replace(slower, runs=(1.1, 1.15)), replace(faster, runs=(139.0, 150.0))]
    assert [min(margins(row)) >= 1 for row in rows] == [row.holds for row in rows] == [False, True, True, False]
    draw(rows, tmp_path / "engine.png")
    assert (tmp_path / "engine.png").stat().st_size > 10_000


def test_ratios() -> None:
    """The median of the rounds, or with `pooled` the ratio of sums; what ran beside is measured in every round."""
    above, below, beside = iter([2.0, 30.0, 4.0]), iter([1.0, 10.0, 1.0]), iter([1.0, 2.0, 9.0])
    found = clock.ratio(lambda: next(above), lambda: next(below), 3, beside=lambda: next(beside))
    assert found == (3.0, 2.0, 4.0, 4.0, 2.0)
    above, below = iter([2.0, 30.0]), iter([1.0, 10.0])
    assert clock.ratio(lambda: next(above), lambda: next(below), 2, pooled=True)[:4] == (32 / 11, 2.0, 3.0, 16.0)
