"""The promises that the repository makes about itself."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PYPROJECT_TEXT = (ROOT / "pyproject.toml").read_text()
PYPROJECT: dict[str, Any] = tomllib.loads(PYPROJECT_TEXT)
PROJECT = PYPROJECT["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
PINS = {
    canonicalize_name(name): version
    for name, _, version in (
        line.partition("==")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line and not line.startswith("#")
    )
}
# What `make env` installs, and what builds the package.
INSTALLED = [
    *PYPROJECT["build-system"]["requires"],
    *PROJECT["dependencies"],
    *(
        line
        for extra in ("cpu", "redis", "audit", "otel", "client", "evaluate", "docs", "dev")
        for line in EXTRAS[extra]
    ),
]
MACHINE_PATH = re.compile(r"(?<![\w.~}*-])/(work|home|root)(?=[/\s'\"`]|$)")
REGISTRY_HOST = re.compile(
    r"pypi\.org|pythonhosted\.org|download\.pytorch\.org|npmjs\.org|deb\.debian\.org|ghcr\.io|docker\.io|nvcr\.io|quay\.io"
)
NOQA = re.compile(r"#\s*noqa\b(?!: [A-Z0-9, ]+ - \S)")


def project_files() -> list[Path]:
    """Every text file of ours that git tracks or would: the vendored protocol is not ours."""
    listing = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    paths = [ROOT / line for line in listing.splitlines() if not line.startswith("proto/inference/")]
    return [path for path in paths if path.is_file() and b"\0" not in path.read_bytes()]


def lines_matching(pattern: re.Pattern[str], paths: list[Path]) -> list[str]:
    """`file:line: text` of each line that the pattern finds."""
    return [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in paths
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if pattern.search(line)
    ]


def test_imports_point_one_way() -> None:
    """The layers in pyproject.toml hold, and each module of guard is in one of them."""
    lint = Path(sys.executable).with_name("lint-imports")
    result = subprocess.run([lint, "--no-cache"], cwd=ROOT, check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_generated_protocol_is_up_to_date(tmp_path: Path) -> None:
    """guard/pb is what `make proto` generates from the vendored protocol."""
    subprocess.run([ROOT / "proto" / "generate.sh", tmp_path], env={**os.environ, "PYTHON": sys.executable}, check=True)
    generated = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    committed = {path.name: path.read_bytes() for path in (ROOT / "guard" / "pb").glob("*_pb2.py*")}
    assert generated == committed, "run `make proto`"


@pytest.mark.parametrize("pattern", [MACHINE_PATH, REGISTRY_HOST], ids=["machine path", "registry host"])
def test_nothing_names_a_machine(pattern: re.Pattern[str]) -> None:
    """No file names a path of the machine it was written on, or the host of a package registry."""
    files = project_files()
    assert ROOT / "pyproject.toml" in files
    assert lines_matching(pattern, files) == []


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (MACHINE_PATH, "see /" + "home/someone/model.onnx"),
        (MACHINE_PATH, 'cwd="/' + 'work"'),
        (REGISTRY_HOST, "https://" + "pypi." + "org/simple"),
        (NOQA, "x = 1  # no" + "qa: S105"),
        (NOQA, "x = 1  # no" + "qa"),
    ],
)
def test_patterns_find_what_they_forbid(pattern: re.Pattern[str], text: str) -> None:
    """The patterns of this file are not blind."""
    assert pattern.search(text)


def test_onnxruntime_is_in_exclusive_extras_alone() -> None:
    """ONNX Runtime's two wheels own the same files: one in `cpu`, one in `gpu`, declared in conflict."""
    groups = {"dependencies": PROJECT["dependencies"], **EXTRAS}
    runtimes = {
        group: names
        for group, lines in groups.items()
        if (names := [name for line in lines if (name := Requirement(line).name).startswith("onnxruntime")])
    }
    assert runtimes == {"cpu": ["onnxruntime"], "gpu": ["onnxruntime-gpu"]}
    assert [{"extra": "cpu"}, {"extra": "gpu"}] in PYPROJECT["tool"]["uv"]["conflicts"]


@pytest.mark.parametrize("line", INSTALLED)
def test_pins_satisfy_ranges(line: str) -> None:
    """Each requirement has a pin in constraints.txt, within the range that pyproject.toml allows."""
    requirement = Requirement(line)
    pin = PINS[canonicalize_name(requirement.name)]
    assert requirement.specifier.contains(pin), f"{requirement.name}=={pin} is outside {requirement.specifier}"


def test_pins_hold_for_every_build() -> None:
    """No pin names one build of a package, for another machine needs another: torch==2.13.0, not torch==2.13.0+cpu."""
    assert [f"{name}=={version}" for name, version in PINS.items() if "+" in version] == []


PIP_INSTALL = re.compile(r"pip install (?!--|playwright)")
OF_A_CLONE = re.compile(r"pip install '\.\[([a-z,]+)\]'")


def test_what_is_to_be_installed_is_there() -> None:
    """Guard is on no index: whoever is told to install a part of it is told so for a clone, by an extra that exists."""
    told = [path for path in project_files() if path.is_relative_to(ROOT / "guard") or path.suffix == ".md"]
    lines = lines_matching(PIP_INSTALL, told)
    assert len(lines) > 10
    for line in lines:
        named = [extra for each in OF_A_CLONE.findall(line) for extra in each.split(",")]
        assert named, line
        assert set(named) <= EXTRAS.keys(), line


def test_each_ruff_ignore_has_a_reason() -> None:
    """A rule that is switched off in pyproject.toml says why, on its line."""
    ignores = PYPROJECT_TEXT.partition("[tool.ruff.lint]")[2].partition("[tool.ruff.lint.pydocstyle]")[0]
    rules = [line for line in ignores.splitlines() if re.search(r'"[A-Z]+\d+"', line)]
    assert rules
    assert [line for line in rules if not re.search(r"#\s*\w", line)] == []


def test_each_noqa_has_a_reason() -> None:
    """A rule that is switched off for one line says why: the rule, a dash, the reason."""
    sources = [path for path in project_files() if path.suffix == ".py" and path.parent.name != "pb"]
    assert lines_matching(NOQA, sources) == []
