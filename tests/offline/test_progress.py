"""Progress on long work, on a terminal and in a log."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from guard.offline.progress import Reporter, quiet


def test_a_line_a_stage_in_a_log() -> None:
    """Where no terminal is, each stage is one line when it ends: what, how many, and how long it took."""
    said = io.StringIO()
    reporter = Reporter(Console(file=said))
    with reporter.stage("counting sheep", 3) as advance:
        advance(2)
        assert said.getvalue() == ""
        advance(1)
    with reporter.stage("counting goats", 1):
        pass
    first, second = said.getvalue().splitlines()
    assert re.fullmatch(r"counting sheep: 3 in 0\.\d s", first)
    assert second.startswith("counting goats: 1 in ")


def test_a_stage_that_fails_is_not_done() -> None:
    """A stage that ends in an error is not reported as done, and the error goes on."""
    said = io.StringIO()
    with pytest.raises(ValueError, match="stop"), Reporter(Console(file=said)).stage("counting", 3):
        raise ValueError("stop")
    assert said.getvalue() == ""


def test_a_bar_on_a_terminal() -> None:
    """On a terminal a stage is a bar that shows how many of its steps are done."""
    said = io.StringIO()
    with Reporter(Console(file=said, force_terminal=True, width=100)).stage("counting sheep", 4) as advance:
        advance(3)
        advance(1)
    assert "counting sheep" in said.getvalue()
    assert "4/4" in said.getvalue()


def test_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    """A quiet reporter says nothing at all."""
    with quiet().stage("counting", 3) as advance:
        advance(3)
    assert capsys.readouterr() == ("", "")
