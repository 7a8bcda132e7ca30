"""The engine in a process of its own, in short: it answers as one in this process does, and both are measured."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from benchmarks.engine import process
from benchmarks.engine.load import SPECS
from benchmarks.engine.process import HERE, THERE, Plan, Side, verdict
from benchmarks.engine.remote import Remote
from benchmarks.engine.subject import Subject, engine, screen
from guard.errors import Overloaded
from guard.values import Screening


@pytest.fixture(scope="module")
def remote(lenet: Subject) -> Iterator[Remote]:
    """An engine in another process."""
    with Remote(lenet, SPECS) as running:
        yield running


def untimed(screened: list[Screening]) -> list[Screening]:
    """Without how long findings took, and who paid: that depends on how copies fell into batches."""
    return [replace(s, findings=tuple(replace(f, duration_s=0.0) for f in s.findings), spent={}) for s in screened]


def test_answers_as_here(lenet: Subject, remote: Remote) -> None:
    """Findings of the other process are bit by bit those of an engine here, each for its own input."""
    with engine(lenet, SPECS) as local:
        assert untimed(screen(remote, lenet.images)) == untimed(screen(local, lenet.images))


def test_refusals_come_back(remote: Remote, lenet: Subject) -> None:
    """What the engine refuses, because it could not be done in time, fails here with the same error."""
    futures = [remote.submit(lenet.images[0], deadline_s=1e-9 if number else None) for number in range(100)]
    found = [type(future.exception(60)) for future in futures]
    assert Overloaded in found


def test_measured(lenet: Subject, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The command measures both on the same work, and the verdict stands above the table."""
    monkeypatch.setattr(process, "load_subjects", lambda *_, **__: [lenet])
    monkeypatch.setattr(process, "Plan", partial(Plan, rounds=1, capacity_s=0.1, echo_s=0.4))
    process.main(tmp_path, tmp_path)
    written = json.loads((tmp_path / "process.json").read_text())
    sides = [
        Side(**each | {name: tuple(each[name]) for name in ("capacity", "echo_ratio")}) for each in written["sides"]
    ]
    assert [side.where for side in sides] == [HERE, THERE]
    for side in sides:
        assert len(side.capacity) == len(side.echo_ratio) == 1
        assert min(*side.capacity, *side.echo_ratio) > 0
        assert 50 < side.private_mb <= side.rss_mb
    assert verdict(sides) == written["verdict"]
    assert verdict(sides) in (tmp_path / "process.md").read_text()


@pytest.mark.parametrize(
    ("capacity", "echo", "better"),
    [(1.3, 1.0, True), (1.0, 0.5, True), (1.0, 1.0, False), (0.8, 0.5, False), (1.3, 1.2, False)],
)
def test_verdict(capacity: float, echo: float, *, better: bool) -> None:
    """It measures better if one figure is clearly better, and the other clearly no worse."""
    here = Side("m", HERE, (100.0,), (2.0,), 500.0, 400.0)
    there = Side("m", THERE, (100.0 * capacity,), (2.0 * echo,), 300.0, 200.0)
    assert ("does not" in verdict([here, there])) is not better
