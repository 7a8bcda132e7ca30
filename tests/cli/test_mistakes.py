"""What a new user gets wrong: one message that says what to do, an exit code, and no traceback."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import onnxruntime
import pytest

from tests.cli.mistakes import CALIBRATE, DATA, DENIED, ENVIRONMENT, MISTAKES
from tests.support.command import environment, guard
from tests.support.forked import Forks

ALONE = ("no data", "serve nothing", "mistakes in a policy", "evaluate another model", "unknown command")
"""One of each kind: these run as processes of their own too."""


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    """Where commands run, for most of their time would go into imports."""
    with Forks(environment()) as started:
        yield started


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake(forks: Forks, folder: Path, upstream: str, busy: str, name: str) -> None:
    """Each mistake ends the command with its exit code and one message, and leaves no profile behind."""
    command, exit_code, patterns = MISTAKES[name]
    result = forks.guard(*command.format(upstream=upstream, busy=busy).split(), cwd=folder)
    assert result.returncode == exit_code, result.stderr
    for pattern in patterns:
        filled = pattern.format(upstream=upstream, busy=busy)
        assert re.search(filled, result.stderr, re.MULTILINE), result.stderr
    assert "Traceback" not in result.stderr
    assert result.stderr.startswith(("guard: ", "Usage: "))
    assert result.stderr.count("guard: ") <= 1
    assert result.stdout == ""
    assert not (folder / "made" / "profile.json").exists()


@pytest.mark.parametrize("name", ALONE)
def test_forks_are_honest(forks: Forks, folder: Path, name: str) -> None:
    """A process of its own ends with the same code and the same words."""
    command, _, _ = MISTAKES[name]
    forked, alone = (run(*command.split(), cwd=folder) for run in (forks.guard, guard))
    assert (forked.returncode, forked.stdout, forked.stderr) == (alone.returncode, alone.stdout, alone.stderr)


@pytest.mark.skipif("CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="CUDA is there")
@pytest.mark.parametrize(
    "command", ["check-config cuda.yaml", "serve --config cuda.yaml", CALIBRATE + "clean.npz --device cuda"]
)
def test_no_gpu(forks: Forks, folder: Path, command: str) -> None:
    """A GPU that is not there ends each command alike, in Guard's own words and no others."""
    result = forks.guard(*command.split(), cwd=folder)
    assert result.returncode == ENVIRONMENT, result.stderr
    assert re.match(r"guard: (cuda.yaml:2: )?ONNX Runtime could not load CUDA\w+ and fell back to CPU", result.stderr)
    assert result.stderr.count("\n") == 3
    assert result.stdout == ""


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="Ray is installed")
def test_no_ray(forks: Forks, folder: Path) -> None:
    """That Ray is missing is told before the work that it is for, which has not begun."""
    result = forks.guard(*(CALIBRATE + "clean.npz --ray local").split(), cwd=folder)
    assert result.returncode == ENVIRONMENT, result.stderr
    assert "--ray needs the Python package ray, which is not installed" in result.stderr
    assert result.stdout == ""  # where each stage that has ended has a line


@pytest.mark.parametrize("name", ["no model file", "no policy there", "serve no model file", "no profile to show"])
def test_at_once(folder: Path, name: str) -> None:
    """What is seen in options and paths is told before torch is imported, which takes seconds."""
    words = [sys.executable, "-X", "importtime", "-m", "guard", *MISTAKES[name][0].split()]
    ended = subprocess.run(words, cwd=folder, env=environment(), capture_output=True, text=True, check=False)
    assert ended.returncode == MISTAKES[name][1]
    imported = re.findall(r"^import time:.*\| +(\S+)$", ended.stderr, re.MULTILINE)
    assert "guard.cli.words" in imported
    assert not {"torch", "scipy", "matplotlib"} & set(imported)


@pytest.fixture(scope="module")
def denied(folder: Path) -> dict[str, subprocess.CompletedProcess[str]]:
    """How commands ended that may not read or write something. Root may do all, so it gives that right up first."""
    drop = "-dac_override,-dac_read_search"
    before = ["setpriv", f"--bounding-set={drop}", f"--inh-caps={drop}"] if os.geteuid() == 0 else []
    if before and shutil.which("setpriv") is None:
        pytest.skip("root without setpriv (Debian package util-linux) may read and write all")
    commands = [command for command, _, _ in DENIED.values()]
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        ends = threads.map(lambda command: guard(*command.split(), cwd=folder, before=before), commands)
        return dict(zip(DENIED, ends, strict=True))


@pytest.mark.parametrize("name", DENIED)
def test_denied(denied: dict[str, subprocess.CompletedProcess[str]], name: str) -> None:
    """Where permissions are missing, the message names the file, and nobody waits for that."""
    _, exit_code, patterns = DENIED[name]
    result = denied[name]
    assert result.returncode == exit_code, result.stderr
    for pattern in patterns:
        assert re.search(pattern, result.stderr), result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize("command", ["audit verify log", "check-config --schema"])
def test_no_room_for_output(folder: Path, command: str) -> None:
    """Where there is no room for what a command prints, that is said, and its exit code is not that of success."""
    into_full = ("sh", "-c", 'exec "$@" >/dev/full', "sh")
    result = guard(*command.split(), cwd=folder, before=into_full)
    assert result.returncode == DATA
    assert re.fullmatch(r"guard: .* has no room \(No space left on device\); make some where it goes\n", result.stderr)
