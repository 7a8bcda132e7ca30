"""Every line that the documents have a reader type is typed, or is known to be done elsewhere."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.walk.documents import DOCUMENTS, ROOT, Typed, typed
from tests.walk.reader import pack
from tests.walk.route import BY_CI, ELSEWHERE, PLACES, RULES, lines
from tests.walk.walk import CLONE, WALKED

pytestmark = pytest.mark.timeout(1200)  # a minute and a half, and more where others use the machine

LINES = tuple(lines())
TYPED = sorted(set(typed()))
KNOWN = (*LINES, *(line for place in PLACES for line in place))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the walk was."""
    made: Path = tmp_path_factory.mktemp("walk")
    pack(made)
    words = [*alone(), sys.executable, "-m", "tests.walk.walk", made]
    ended = subprocess.run(
        words, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return made


@pytest.fixture(scope="module")
def walked(folder: Path) -> dict[str, dict[str, Any]]:
    """What became of each line."""
    return dict(json.loads((folder / WALKED).read_text()))


def alone() -> list[str]:
    """What gives a command a network of its own, with all ports free; nothing where that isn't allowed."""
    words = ["unshare", "--net", *(["--map-root-user"] if os.geteuid() else [])]
    allowed = shutil.which("unshare") and subprocess.run([*words, "true"], capture_output=True, check=False)
    return words if allowed and not allowed.returncode else []


@pytest.mark.parametrize("line", LINES)
def test_it_works(walked: dict[str, dict[str, Any]], line: str) -> None:
    """As it stands in the documents, the line ends or serves as it should, and prints and leaves what it should."""
    result = walked[line]
    if result["missing"]:
        pytest.skip(f"not installed: {result['missing']}")
    assert not result["problem"], f"{result['problem']}:\n{result['output']}"


def test_what_is_generated_is_current(walked: dict[str, dict[str, Any]], folder: Path) -> None:
    """What is made by commands is as they make it; the one file that was to be changed has links that open anywhere."""
    assert walked
    words = ["git", "diff", "--name-only"]
    changed = subprocess.run(words, cwd=folder / CLONE, capture_output=True, text=True, check=True).stdout
    assert set(changed.split()) - {"constraints.txt"} == {RULES}  # pins are those of what is installed here
    links = re.findall(r"runbook_url: (.*)", (folder / CLONE / RULES).read_text())
    assert links
    assert all(link.startswith("https://git.example/guard/blob/main/docs/runbooks/Guard") for link in links)


@pytest.mark.parametrize("each", TYPED, ids=lambda each: f"{each.document}: {each.line[:60]}")
def test_each_line_has_its_place(each: Typed) -> None:
    """It is typed in the walk, or it is said where else it is done, or what that would take."""
    assert each.line in KNOWN, f"{each.document} has a new line: put it into tests/walk/route.py"


def test_no_line_is_invented() -> None:
    """The route and the lists have nothing that no document has."""
    assert {each.line for each in TYPED} == set(KNOWN)
    assert len(set(KNOWN)) == len(KNOWN)


def test_lines_are_found() -> None:
    """The tests above are not blind: every kind of place where a line can be is looked at."""
    assert len(DOCUMENTS) > 40
    assert {
        Typed("README.md", "guard serve --config policy.yaml"),
        Typed("README.md", "guard doctor policy.yaml"),
        Typed("CONTRIBUTING.md", "pre-commit install"),
        Typed("examples/README.md", "curl -s -d @attacked.json localhost:8080/classify"),
        Typed("docs/runbooks/GuardAttackSuspected.md", "guard audit show ID FOLDER"),
    } <= set(TYPED)


@pytest.mark.parametrize("place", sorted(set(ELSEWHERE.values())))
def test_elsewhere_is_there(place: str) -> None:
    """What is named in place of typing a line is a file with tests."""
    assert "def test_" in (ROOT / place).read_text()


@pytest.mark.parametrize(
    ("line", "command", "started"),
    [
        ("make demo", "guard demo\n", 'arguments = ("demo", '),
        ("make docs", "python -m mkdocs build --quiet --strict\n", '"-m", "mkdocs", "build", "--quiet", "--strict"'),
        ("make fuzz-differential MINUTES=60", "python -m benchmarks.fuzz.differential --m", "differential.main()"),
        ("make chaos", "python -m benchmarks.chaos ", "benchmarks.chaos import __main__ as command"),
        ("make soak DATA=folder", "python -m benchmarks.engine.soak ", "benchmarks.engine import soak as command"),
        ("make bench-audit", "python -m benchmarks.audit\n", "benchmarks.audit import __main__ as command"),
        ("make bench-queries DATA=folder", "python -m benchmarks.queries ", "queries import __main__ as command"),
        ("make bench-queries-live", "python -m benchmarks.queries.live ", "live.main("),
        ("make bench-queries-live-mnist DATA=folder", "python -m benchmarks.queries.live --data ", "live.main("),
    ],
)
def test_what_make_does_is_done_elsewhere(line: str, command: str, started: str) -> None:
    """The test in place of a target starts what the target starts."""
    assert f".venv/bin/{command}" in recipe(line)
    assert started in (ROOT / ELSEWHERE[line]).read_text()


def test_what_continuous_integration_types() -> None:
    """It types `make test`, which begins with `make lint servers` and runs all tests."""
    typed_there, *others = BY_CI
    assert (ROOT / ".ci" / "run").read_text().splitlines()[-1] == typed_there
    made = recipe(typed_there)
    for line in others[:-1]:
        assert re.search(rf"\n?make .*\b{line.removeprefix('make ')}\b", made), made
    assert ".venv/bin/pytest --numprocesses" in made


def recipe(line: str) -> str:
    """What make would run."""
    words = [*line.replace("make", "make --dry-run --old-file=.venv/.installed", 1).split()]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout
