"""What a new user gets wrong: one message that says what to do, an exit code, and no traceback."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.cli.mistakes import DENIED, MISTAKES
from tests.support.command import guard

pytestmark = pytest.mark.timeout(1800)  # the first test waits for all commands, which is long on a busy machine


@pytest.fixture(scope="module")
def ended(
    request: pytest.FixtureRequest, folder: Path, upstream: str, busy: str
) -> dict[str, subprocess.CompletedProcess[str]]:
    """How the commands of all selected tests ended. They run side by side, for most of their time goes into imports."""
    names = [item.callspec.params["name"] for item in request.session.items if item.function is test_mistake]
    commands = [MISTAKES[name][0].format(upstream=upstream, busy=busy) for name in names]
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        return dict(zip(names, threads.map(lambda command: guard(*command.split(), cwd=folder), commands), strict=True))


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake(
    folder: Path, upstream: str, busy: str, ended: dict[str, subprocess.CompletedProcess[str]], name: str
) -> None:
    """Each mistake ends the command with its exit code and one message, and leaves no profile behind."""
    _, exit_code, patterns = MISTAKES[name]
    result = ended[name]
    assert result.returncode == exit_code, result.stderr
    for pattern in patterns:
        filled = pattern.format(upstream=upstream, busy=busy)
        assert re.search(filled, result.stderr, re.MULTILINE), result.stderr
    assert "Traceback" not in result.stderr
    assert result.stderr.startswith(("guard: ", "Usage: "))
    assert result.stderr.count("guard: ") <= 1
    assert result.stdout == ""
    assert not (folder / "made" / "profile.json").exists()


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
