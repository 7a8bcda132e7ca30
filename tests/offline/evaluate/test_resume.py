"""A run that was stopped goes on where it was."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from guard.offline.evaluate.command import evaluate_to
from guard.offline.evaluate.kept import Kept, key_of
from guard.offline.evaluate.request import Request
from tests.offline.evaluate.conftest import NAMED, Report, arguments
from tests.support.command import Running, guard

NAMES = ("FGSM", "SimBA", "HopSkipJump")


def dates(folder: Path) -> dict[str, int]:
    """When each kept file was written."""
    return {file.name: file.stat().st_mtime_ns for file in (folder / "kept").glob("*.npz")}


def test_a_run_that_was_stopped(files: Path, tmp_path: Path) -> None:
    """What was crafted before an interrupt is used again, and the rest is added; a third run makes nothing anew."""
    out, command = tmp_path / "made", [word for name in NAMES for word in ("--attacks", name)]
    with Running(*arguments(files, out, *command), cwd=tmp_path) as running:
        running.wait_for("crafting SimBA, pixels, step 0.1")
        running.end(signal.SIGINT, within_s=20)
    before = dates(out)
    assert before
    assert not (out / "report.html").exists()
    request = Request(
        profile=files / "profile",
        model=files / "digits.onnx",
        data=files / "test.npz",
        out=out,
        attacks=NAMES,
        images=6,
    )
    first = evaluate_to(request, Console(quiet=True))
    after = dates(out)
    assert {name: after[name] for name in before} == before
    assert len(after) > len(before)
    again = evaluate_to(request, Console(quiet=True))
    assert dates(out) == after
    results = [each.as_json() for each in (first, again)]
    assert [each.pop("facts").keys() for each in results] == [first.facts.keys()] * 2  # they hold the time
    assert results[0] == results[1]


def test_for_machines(files: Path, report: Report) -> None:
    """With --json standard output has what is in evaluation.json, and the rest goes to standard error."""
    kept = dates(report.folder)
    ended = guard(*arguments(files, report.folder, *NAMED), "--json", cwd=files)
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout, parse_constant=pytest.fail)
    assert told == json.loads((report.folder / "evaluation.json").read_text())
    assert {name: each for name, each in told.items() if name != "facts"} == {
        name: each for name, each in report.results.items() if name != "facts"
    }
    assert f"The report is {report.folder / 'report.html'}" in ended.stderr
    assert dates(report.folder) == kept


def test_kept_files(tmp_path: Path) -> None:
    """What is kept comes back; a damaged file is none; anything that is different has another key."""
    kept, images = Kept(tmp_path / "kept"), np.arange(6, dtype=np.uint8).reshape(2, 3)
    keys = {
        key_of({"seed": 0}, images),
        key_of({"seed": 1}, images),
        key_of({"seed": 0}, images + 1),
        key_of({"seed": 0}, images.reshape(3, 2)),
    }
    assert len(keys) == 4
    key = keys.pop()
    assert kept.get(key) is None
    kept.put(key, {"images": images})
    found = kept.get(key)
    assert found is not None
    np.testing.assert_array_equal(found["images"], images)
    (file,) = (tmp_path / "kept").iterdir()
    file.write_bytes(file.read_bytes()[:-20])
    assert kept.get(key) is None
